"""Out of memory: the run continues from its last step with settings that need less, at the same effective batch size.

First smaller micro-batches (and more of them), then gradient checkpointing, then an optimizer with a smaller state,
then the EMA in RAM, the frozen base in fp8, and at last all trained weights in RAM. Each fallback is shown in the
window and noted in run.json, so that a resumed run starts with it. accelerate's ``find_executable_batch_size``
restarts the whole function; here a single step is repeated.
"""

from __future__ import annotations

import importlib.util
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from engine.config import RunConfig
from engine.errors import UserError
from engine.jobs.events import Message, SettingsChanged
from engine.machine.errors import is_out_of_memory
from engine.machine.memory import free_memory, none_if_out_of_memory
from engine.nets.fp8 import quantize_fp8
from engine.nets.gradient_checkpointing import use_gradient_checkpointing
from engine.runs.changes import FALLBACKS, with_settings
from engine.runs.run import write_run
from engine.training.state import TrainState
from engine.tuning.facts import facts_of

WINDOWS_SPARE_BYTES = 256 * 2**20
T = TypeVar("T")


@dataclass(frozen=True)
class Fallback:
    """A change of settings that saves memory, by their dotted names, and what it means."""

    settings: dict[str, Any]
    words: str


def next_fallback(config: RunConfig, on_card: bool, eight_bit: bool) -> Fallback | None:
    """The next change that saves memory and keeps the effective batch size; None if there is none left.

    Args:
        on_card: the run is on a graphics card, so moving things to RAM helps.
        eight_bit: bitsandbytes is installed.
    """
    train, optim = config.train, config.optim
    if train.batch_size > 1:
        smaller = max(size for size in range(1, train.batch_size) if train.batch_size % size == 0)
        more = train.accumulation * train.batch_size // smaller
        words = f"{smaller} at a time instead of {train.batch_size}, {more} micro-batches accumulated"
        return Fallback({"train.batch_size": smaller, "train.accumulation": more}, words)
    if train.gradient_checkpointing != "both":
        wider = "controlnet" if train.gradient_checkpointing == "none" else "both"
        words = f"gradient checkpointing ({wider}): some things are computed twice"
        return Fallback({"train.gradient_checkpointing": wider}, words)
    in_ram = not on_card or optim.offload  # then the optimizer's state is not on the card anyway
    if optim.optimizer == "adamw" and not optim.offload:
        smaller_optimizer = "adamw8bit" if on_card and eight_bit else "adafactor"
        words = f"the optimizer {smaller_optimizer}, whose state is smaller and is reset"
        return Fallback({"optim.optimizer": smaller_optimizer}, words)
    if (fallback := ema_fallback(config, on_card)) is not None:
        return fallback
    if on_card and facts_of(config).base_is_frozen and train.base_storage == "same":
        return Fallback({"train.base_storage": "fp8"}, "the frozen base in eight bits")
    if on_card and optim.optimizer == "adamw8bit":
        words = "the optimizer's state in the computer's memory, and reset"
        return Fallback({"optim.optimizer": "paged_adamw8bit"}, words)
    if not in_ram and train.precision != "fp32":  # in fp32 the master weights are what computes
        words = "the trained weights kept in the computer's memory: slower steps"
        if "8bit" not in optim.optimizer:
            return Fallback({"optim.offload": True}, words)
        settings = {"optim.offload": True, "optim.optimizer": "adafactor"}  # the 8-bit ones compute on the card
        return Fallback(settings, f"{words}, with the optimizer adafactor, whose state is reset")
    return None


def ema_fallback(config: RunConfig, on_card: bool) -> Fallback | None:
    """The fallback that moves the EMA from the card to RAM; None if it is not on the card."""
    optim = config.optim
    if not on_card or optim.offload or optim.ema_decay <= 0 or optim.ema_device != "same":
        return None
    return Fallback({"optim.ema_device": "cpu"}, "the average of the weights in the computer's memory")


def recover(state: TrainState, where: str) -> Fallback:
    """Free what a failed try left, and take, tell and record the next fallback.

    Call outside of the ``except`` block: the error holds the tensors of the failed try.

    Args:
        where: in which part of the work, for people.

    Raises:
        UserError: there is no fallback left.
    """
    clear(state)
    group = state.group
    if group.world_size > 1 and state.updating_weights:
        raise UserError(
            f"Memory ran out in the middle of optimizer step {state.step + 1:,}.",
            "Other processes may have completed that step already, so it cannot be tried again with less memory.",
            "Choose a smaller batch size, gradient checkpointing or an 8-bit optimizer, and start again.",
        )
    fallback = group.broadcast(lambda: next_fallback(state.config, state.on_card, _has_bitsandbytes()))
    if fallback is None:
        raise UserError(
            "The memory is not enough for this run.",
            f"At step {state.step + 1:,} it ran out with the most memory-saving settings there are.",
            "Close other programs that use the graphics card, choose a lower resolution, or a smaller base model.",
        )
    if group.main:
        _record(state, where, fallback)
    if none_if_out_of_memory(partial(apply, state, fallback)) is None:  # a fallback needs a little memory itself
        clear(state)
        apply(state, fallback)
    state.parallel.fallback_taken()
    state.emit(
        Message(f"Memory ran out at step {state.step + 1:,} ({where}). Going on with {fallback.words}.", "warning")
    )
    return fallback


def record_for_resume(state: TrainState) -> str:
    """Record the fallback with which a resume should start, and return its description."""
    clear(state)
    fallback = next_fallback(state.config, state.on_card, _has_bitsandbytes())
    if fallback is None:
        return "the same settings: close other programs first, or choose a lower resolution"
    _record(state, "step", fallback)
    return fallback.words


def retry_once(state: TrainState, what: str, action: Callable[[], T], fallback: Fallback | None = None) -> T:
    """Call ``action()``, which must not fail halfway; if memory runs out, free some and call it once more.

    Args:
        what: for people, with the step.
        fallback: settings with which it needs less, applied before the second try.

    Raises:
        UserError: memory ran out both times.
    """
    error: BaseException | None
    try:
        return action()
    except (RuntimeError, MemoryError) as first:
        if not is_out_of_memory(first):
            raise
    clear(state)
    if state.is_main:
        _record(state, what, fallback or Fallback({}, "memory was freed"))
    done = f"Going on with {fallback.words}." if fallback is not None else "Freed some and tried again."
    state.emit(Message(f"Memory ran out at the {what}. {done}", "warning"))
    try:
        if fallback is not None:
            apply(state, fallback)
        return action()
    except (RuntimeError, MemoryError) as second:
        if not is_out_of_memory(second):
            raise
        error = second
    raise UserError(
        f"The {what} could not be made.",
        "Memory ran out twice, with everything freed in between.",
        "Close other programs and resume; the last checkpoint is whole.",
    ) from error


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
        use_gradient_checkpointing(trainable.control_net, state.denoiser, scope, state.family.layers)
    if "train.base_storage" in settings:
        quantize_fp8(state.denoiser, trainable.master, *trainable.nets, layers=state.family.layers)
    if "optim.ema_device" in settings and state.ema is not None:
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


def cap_allocator(device: torch.device) -> None:
    """On Windows, keep the driver from spilling into slow shared memory instead of refusing an allocation.

    On other systems an allocation that does not fit fails by itself, and nothing is capped.
    """
    if device.type != "cuda" or platform.system() != "Windows":
        return
    free, total = torch.cuda.mem_get_info(device)
    usable = free + torch.cuda.memory_reserved(device) - WINDOWS_SPARE_BYTES
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.1, usable / total)), device)


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def _record(state: TrainState, where: str, fallback: Fallback) -> None:
    """Note a fallback in run.json. A full disk does not end the run here: the next checkpoint waits for it."""
    entry = {"step": state.step, "where": where, "settings": fallback.settings, "words": fallback.words}
    if fallback.settings:
        state.emit(SettingsChanged(state.step, f"memory ran out: {fallback.words}"))
    try:
        about = json.loads((state.run_folder / "run.json").read_text(encoding="utf-8"))
        about.setdefault(FALLBACKS, []).append(entry)
        write_run(state.run_folder, about)
    except OSError as error:
        words = f"The change was not noted in run.json ({error.strerror or error}); a resume has to find it out again."
        state.emit(Message(words, "warning"))
