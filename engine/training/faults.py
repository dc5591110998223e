"""What may go wrong in a step, and how the run continues: memory, a compiler, gradients that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from engine.distributed.group import SharedOutOfMemory
from engine.errors import TrainingBroke
from engine.jobs.events import Message, StepSkipped
from engine.machine.errors import is_out_of_memory
from engine.training import oom, speed
from engine.training.state import TrainState
from engine.training.step import Skipped, train_step
from engine.training.torch_settings import has_no_kernel, strictly_deterministic

CAUSES = {
    "loss": "its loss is NaN or infinite",
    "gradients": "its loss is finite, but its gradients are NaN or infinite",
}
NAMED = 16
"""Images of a skipped step that a message names; metrics.jsonl has all."""


def take_step(state: TrainState, where: str = "step") -> torch.Tensor | Skipped | None:
    """Take one optimizer step, and handle its errors.

    Args:
        where: in which part of the work, for people.

    Returns:
        As ``train_step``: the mean loss on the device; ``Skipped``; or None if the step has to be tried again.

    Raises:
        UserError: memory ran out, and no fallback is left.
    """
    try:
        with strictly_deterministic(state.strict):
            state.parallel.begin_step()
            if state.trainable.weights.stale:
                state.trainable.weights.refresh()
            outcome = train_step(state)
            if isinstance(outcome, torch.Tensor):
                state.parallel.step_done()
            return outcome
    except Exception as error:
        no_memory, message = is_out_of_memory(error), str(error)
        all_know = isinstance(error, SharedOutOfMemory)
        no_kernel = state.strict and has_no_kernel(error)
        if not no_memory and not no_kernel and not speed.go_on_uncompiled(state, error):
            raise
    # Outside of the except block, so that the error no longer holds the tensors of the failed step.
    if no_memory:
        state.parallel.out_of_memory(message, all_know)
        oom.recover(state, where, message)
        return None
    if no_kernel:
        state.go_on_without_strictness(message)
    oom.clear(state)  # gradients left by the compiler or the failed operation
    return take_step(state, where)


def report_skipped(state: TrainState, step: int, skipped: Skipped, save: Callable[[], Any]) -> None:
    """Log a step that was skipped, with its images. End the run if too many were, at its last good state.

    Args:
        step: its number, from 1: the last one, or one before where losses are read later.
        skipped: its outcome.
        save: writes a checkpoint of the present step.

    Raises:
        TrainingBroke: too many steps were skipped.
    """
    images = state.batches.keys(step - 1)
    again = [image for image in dict.fromkeys(images) if image in state.history.skipped]
    state.emit(StepSkipped(step, skipped.not_finite, tuple(images)))
    named = f"Its images: {_named(images)}."
    if again:
        named += f" Also in an earlier skipped step: {_named(again)}."
    if skipped.not_finite == "gradients" and (updated := state.parallel.updated_before_skipping):
        named = f"{updated} {named}"
    state.emit(Message(f"Step {step:,} was skipped: {CAUSES[skipped.not_finite]}. {named}", "warning"))
    if why := state.loss_scale.too_many_skipped(step):
        _stop(state, step, why, save)


def _named(images: Sequence[str]) -> str:
    more = f" and {len(images) - NAMED:,} more" if len(images) > NAMED else ""
    return ", ".join(images[:NAMED]) + more


def _stop(state: TrainState, broke_at: int, why: str, save: Callable[[], Any]) -> NoReturn:
    """End the run after its last good step. Weights and loss scale are still those of that step."""
    state.start_at(state.loss_scale.last_good(state.step))
    state.loss_scale.forget_skipped()
    finite = all(bool(torch.isfinite(p).all()) for p in state.parallel.parameters())
    finite = all(state.group.gather(finite))
    if finite:
        save()
    kept = f"The state of step {state.step:,} is good and saved." if finite else "The weights are also damaged."
    raise TrainingBroke(
        state.step + 1,
        f"Training broke at step {broke_at:,}: {why}.",
        "Their loss or gradients were NaN or infinite: the learning rate is too high, the precision too low, or images "
        f"are broken (the log names those of each skipped step). {kept}",
        "Resume with half the learning rate from a checkpoint well before that step, or in bf16 or fp32 (Resume with "
        "other settings, on the Train tab). Or remove broken images from the dataset, then resume.",
    )
