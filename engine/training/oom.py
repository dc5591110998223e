"""Out of memory: the run continues from its last step with settings that need less, at the same effective batch size.

First memory is freed and the step tried once more with the same settings. Then the cheapest change that saves what is
missing is taken (engine/estimate/fallbacks.py); here it is applied. Each fallback is shown in the window and noted in
run.json, so that a resumed run starts with it. accelerate's ``find_executable_batch_size`` restarts the whole function;
here a single step is repeated. Only where the nets do not fit are they built again.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import psutil
import torch

from engine.config import RunConfig
from engine.distributed.group import ProcessGroup, SharedOutOfMemory
from engine.errors import UserError
from engine.estimate.fallbacks import (
    Fallback,
    Machine,
    Shortage,
    ema_fallback,
    next_fallback,
    shortage_of_step,
    shortage_to_build,
)
from engine.estimate.memory import predict_from
from engine.families.files import configs_at
from engine.jobs.events import Message, SettingsChanged
from engine.jobs.runner import Emit
from engine.machine.capabilities import capabilities
from engine.machine.device import is_card
from engine.machine.errors import missing_bytes
from engine.machine.memory import cap_allocator, free_memory, none_if_out_of_memory, result_or_message, usable_bytes
from engine.nets.frozen_layers import quantize_base
from engine.runs.changes import FALLBACKS, with_settings
from engine.runs.run import write_run
from engine.training.state import TrainState

__all__ = ["Fallback", "apply", "build_that_fits", "ema_fallback", "next_fallback", "recover"]

RETRY_EVERY = 100
"""Steps: a step is tried again with the same settings if that was not needed in so many steps before."""

T = TypeVar("T")


def recover(state: TrainState, where: str, message: str = "") -> Fallback | None:
    """Free the memory of a failed try. If that happened recently, also apply, report and record the next fallback.

    Call outside of the ``except`` block: the error holds the tensors of the failed try.

    Args:
        where: in which part of the work, for people.
        message: the error's.

    Returns:
        The fallback; None if the step is to be tried again with the same settings.

    Raises:
        UserError: there is no fallback left.
    """
    clear(state)
    cap_allocator(state.device)
    group, place = state.group, f"Memory ran out at step {state.step + 1:,} ({where})."
    if state.updating_weights:
        state.parallel.check_update_repeatable()
    if state.memory_freed_at is None or state.step - state.memory_freed_at >= RETRY_EVERY:
        state.memory_was_freed()
        state.parallel.fallback_taken()
        state.emit(Message(f"{place} Some was freed, and the step is tried again.", "warning"))
        return None
    missing = _largest(group.gather(_shortage_of_step(state, message)))
    fallback = group.broadcast(lambda: _cheapest(state, missing))
    if fallback is None:
        raise _not_enough(f"At step {state.step + 1:,} memory")
    if group.main:
        _record(state.run_folder, state.step, where, fallback, state.emit)
    if none_if_out_of_memory(partial(apply, state, fallback)) is None:  # a fallback needs a little memory itself
        clear(state)
        apply(state, fallback)
    state.parallel.fallback_taken()
    state.emit(Message(f"{place} Continuing with {fallback.words}.", "warning"))
    return fallback


def build_that_fits(
    build: Callable[[RunConfig], TrainState],
    config: RunConfig,
    *,
    run_folder: Path,
    base: str,
    step: int,
    device: torch.device,
    group: ProcessGroup,
    sharded: bool,
    emit: Emit,
) -> TrainState:
    """``build(config)``: nets, optimizer and EMA of a run. If they do not fit, with fallbacks that keep less in memory.

    At first it is called once more with the same settings, after memory was freed.

    Args:
        base: where the base is.
        step: optimizer steps that are done.

    Raises:
        UserError: they do not fit, and there is no fallback left.
    """
    configs, tried_again = configs_at(base), False
    while True:
        state, message = result_or_message(partial(build, config))
        try:
            group.all_ok(message)
            if state is not None:
                return state
        except SharedOutOfMemory:
            state = None  # another process has to build again, so all do
        free_memory()
        cap_allocator(device)
        if not tried_again:
            tried_again = True
            emit(
                Message(
                    "Memory ran out while the models were being loaded. Some was freed, and loading is tried again.",
                    "warning",
                )
            )
            continue
        machine = replace(machine_of(device, group.world_size, sharded), loads_base=True)
        now = predict_from(config, configs, processes=machine.processes)
        missing = _largest(group.gather(shortage_to_build(now, usable_bytes(device), missing_bytes(message))))
        fallback = group.broadcast(partial(next_fallback, config, configs, machine, missing))
        if fallback is None:
            raise _not_enough("While the models were being loaded, memory")
        if group.main:
            _record(run_folder, step, "loading", fallback, emit)
        emit(
            Message(f"Memory ran out while the models were being loaded. Continuing with {fallback.words}.", "warning")
        )
        config = with_settings(config, fallback.settings)


def _shortage_of_step(state: TrainState, message: str) -> Shortage:
    """Bytes that this process lacks. Call it after memory was freed."""
    now = predict_from(state.config, configs_at(state.base), processes=state.group.world_size)
    return shortage_of_step(now, usable_bytes(state.device), missing_bytes(message))


def _largest(shortages: Sequence[Shortage]) -> Shortage:
    """The largest value of all processes, so that all take the same fallback."""
    return Shortage(max(one.peak for one in shortages), max(one.resident for one in shortages))


def _cheapest(state: TrainState, shortage: Shortage) -> Fallback | None:
    machine = machine_of(state.device, state.group.world_size, state.parallel.sharded)
    alone = machine.processes == 1
    machine = replace(machine, can_split=alone and state.trainable.weights.can_split)
    machine = replace(machine, in_backward=alone and state.precision != "fp16" and not state.nets.compiled)
    return next_fallback(state.config, configs_at(state.base), machine, shortage)


def machine_of(device: torch.device, processes: int, sharded: bool) -> Machine:
    """Facts about the machine on which the choice of a fallback depends."""
    able = capabilities(device.type)
    return Machine(
        on_card=is_card(device),
        eight_bit=able.bitsandbytes and importlib.util.find_spec("bitsandbytes") is not None,
        paged=able.paged_optimizers,
        fp8=able.fp8,
        processes=processes,
        free_ram=float(psutil.virtual_memory().available),
        sharded=sharded,
    )


def _not_enough(when: str) -> UserError:
    return UserError(
        "There is not enough memory for this run.",
        f"{when} ran out even with the settings that save the most memory.",
        "Close other programs that use the graphics card and resume. Or start a new run with its settings at a "
        "lower resolution, or with a smaller base model (Resume with other settings, on the Train tab).",
    )


def record_for_resume(state: TrainState) -> str:
    """Record the fallback with which a resume should start, and return its description."""
    clear(state)
    fallback = _cheapest(state, _shortage_of_step(state, ""))
    if fallback is None:
        return "the same settings: close other programs first, or choose a lower resolution"
    _record(state.run_folder, state.step, "step", fallback, state.emit)
    return fallback.words


def retry_once(
    state: TrainState,
    what: str,
    action: Callable[[], T],
    with_less: Callable[[RunConfig, bool], Fallback | None] | None = None,
) -> T:
    """Call ``action()``, which must not fail halfway; if memory runs out, free some and call it once more.

    Args:
        what: for people, with the step.
        with_less: called with the settings, and whether the run is on a card: a change with which it needs less,
            applied before the second try.

    Raises:
        UserError: memory ran out both times.
    """
    done, message = result_or_message(action)
    if not message:
        return cast(T, done)
    clear(state)
    fallback = with_less(state.config, state.on_card) if with_less is not None else None
    if state.is_main:
        _record(state.run_folder, state.step, what, fallback or Fallback({}, "memory was freed"), state.emit)
    next_try = (
        f"Continuing with {fallback.words}." if fallback is not None else "Some was freed, and this is tried again."
    )
    state.emit(Message(f"Memory ran out while making the {what}. {next_try}", "warning"))

    def again() -> T:
        if fallback is not None:
            apply(state, fallback)
        return action()

    done, message = result_or_message(again)
    if not message:
        return cast(T, done)
    raise UserError(
        f"The {what} could not be made.",
        "Memory ran out twice, although everything possible was freed in between.",
        "Close other programs and resume; the last checkpoint is complete.",
    ) from MemoryError(message)


def clear(state: TrainState) -> None:
    """Drop the gradients of a failed try and free memory."""
    state.drop_gradients()
    free_memory()


def apply(state: TrainState, fallback: Fallback) -> Fallback:
    """Change the settings of a run that is between two steps. If it fails it can be called again."""
    settings, trainable = fallback.settings, state.trainable
    config = with_settings(state.config, settings)
    state.use_settings(config)
    if "train.gradient_checkpointing" in settings:
        scope = config.train.gradient_checkpointing
        trainable.use_gradient_checkpointing(state.denoiser, scope, state.family.layers)
    if "train.base_storage" in settings or "train.modulation_storage" in settings:
        few = {"kind": config.train.base_storage, "modulation": config.train.modulation_storage}
        quantize_base(state.denoiser, trainable.master, *trainable.nets, **few, layers=state.family.layers)
    if "optim.master_weights" in settings and trainable.weights.can_split:
        trainable.weights.keep_split()
    if settings.get("optim.in_backward"):
        state.use_optimizer_in_backward()
    if ("optim.ema_device" in settings or "optim.offload" in settings) and state.ema is not None:
        state.ema.to("cpu")
    if "optim.offload" in settings:
        state.keep_optimizer_in_ram()
    if "optim.optimizer" in settings or "optim.offload" in settings:
        kept = state.optimizer.state_dict() if "optim.optimizer" not in settings else None
        optimizer = state.new_optimizer(trainable.master)
        if kept is not None:
            optimizer.load_state_dict(kept)  # which moves it to where the weights are now
        state.replace_optimizer(optimizer)
        del kept
        clear(state)
    return fallback


def _record(run_folder: Path, step: int, where: str, fallback: Fallback, emit: Emit) -> None:
    """Note a fallback in run.json. A full disk does not end the run here: the next checkpoint waits for it."""
    entry = {"step": step, "where": where, "settings": fallback.settings, "words": fallback.words}
    if fallback.settings:
        emit(SettingsChanged(step, f"memory ran out: {fallback.words}"))
    try:
        about = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
        about.setdefault(FALLBACKS, []).append(entry)
        write_run(run_folder, about)
    except OSError as error:
        words = (
            f"The change could not be written to run.json ({error.strerror or error}); after a resume the run has to "
            "find it again."
        )
        emit(Message(words, "warning"))
