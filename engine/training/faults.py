"""What may go wrong in a step, and how the run continues: memory, a compiler, gradients that are not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from engine.distributed.group import SharedOutOfMemory
from engine.errors import UserError
from engine.machine.errors import is_out_of_memory
from engine.training import oom, speed
from engine.training.checkpoint import training_broke
from engine.training.state import TrainState
from engine.training.step import train_step

MAX_SKIPPED = {"fp16": 30, "bf16": 3, "fp32": 3}
"""Steps that may be skipped in a row. fp16 halves its loss scale each time; in the others a retry rarely helps."""


def take_step(state: TrainState, where: str = "step") -> torch.Tensor | None:
    """Take one optimizer step, whatever happens in it.

    Args:
        where: in which part of the work, for people.

    Returns:
        The mean loss on the device; None if the step has to be tried again. Then no weight was updated.

    Raises:
        UserError: memory ran out, and no fallback is left.
    """
    try:
        state.parallel.begin_step()
        if state.trainable.weights.stale:
            state.trainable.weights.refresh()
        loss = train_step(state)
        if loss is not None:
            state.parallel.step_done()
        return loss
    except Exception as error:
        no_memory, message = is_out_of_memory(error), str(error)
        all_know = isinstance(error, SharedOutOfMemory)
        if not no_memory and not speed.go_on_uncompiled(state, error):
            raise
    # Outside of the except block, so that the error no longer holds the tensors of the failed step.
    if no_memory:
        state.parallel.out_of_memory(message, all_know)
        oom.recover(state, where)
        return None
    oom.clear(state)  # what the compiler left
    return take_step(state, where)


def stop_if_broken(state: TrainState, save: Callable[[], Any]) -> None:
    """End a run that skips one step after another, at its last good state.

    Args:
        save: writes a checkpoint of the present step.

    Raises:
        UserError: too many steps in a row were skipped.
    """
    skipped = state.loss_scale.skipped
    if skipped < MAX_SKIPPED[state.precision]:
        return
    finite = all(bool(torch.isfinite(p).all()) for p in state.parallel.parameters())
    finite = all(state.group.gather(finite))
    if finite:
        save()
    kept = f"The state of step {state.step:,} is good and saved." if finite else "The weights are damaged, too."
    if state.precision == "fp16":
        raise UserError(
            f"Training broke at step {state.step + 1:,}: fp16 overflows at every try.",
            f"The loss scale was halved {skipped} times in a row. {kept}",
            "Choose bf16 or fp32 (Precision), or a lower learning rate, and resume from the last checkpoint.",
        )
    raise training_broke(state.step + 1, "the loss or its gradients are NaN or infinite", kept)
