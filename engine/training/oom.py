"""Out of memory: the run goes on from its last step with settings that need less, the effective batch unchanged.

First smaller micro-batches (and more of them), then gradient checkpointing, then an optimizer with a smaller memory,
then the average to the computer's RAM, the frozen base in eight bits, and at last all that learns to RAM. Each rung is
told in the window and kept in run.json, so that a resumed run starts where it had got to.
"""

from __future__ import annotations

import importlib.util
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from engine.config import RunConfig, parse
from engine.config.presets import flatten, unflatten
from engine.errors import UserError
from engine.jobs.events import Message
from engine.machine.errors import is_out_of_memory as is_out_of_memory
from engine.machine.memory import free_memory, none_if_out_of_memory
from engine.nets.ema import averaged_parameters
from engine.nets.fp8 import shrink
from engine.nets.lora import thin_layers
from engine.nets.trainable import checkpoint_gradients
from engine.runs.run import write_run
from engine.training.optim import build_optimizer, set_learning_rate

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

WINDOWS_SPARE_BYTES = 256 * 2**20


T = TypeVar("T")


@dataclass(frozen=True)
class Rung:
    """One change of settings, by their dotted names, and what it means."""

    settings: dict[str, Any]
    words: str


def next_rung(config: RunConfig, on_card: bool, eight_bit: bool) -> Rung | None:
    """The next change that saves memory and keeps the effective batch; None at the end.

    Args:
        on_card: the run is on a graphics card, so that moving things to RAM helps.
        eight_bit: bitsandbytes is installed.
    """
    train, optim = config.train, config.optim
    if train.batch_size > 1:
        smaller = max(size for size in range(1, train.batch_size) if train.batch_size % size == 0)
        more = train.accumulation * train.batch_size // smaller
        words = f"{smaller} at a time instead of {train.batch_size}, {more} batches added up"
        return Rung({"train.batch_size": smaller, "train.accumulation": more}, words)
    if train.gradient_checkpointing != "both":
        wider = "controlnet" if train.gradient_checkpointing == "none" else "both"
        words = f"gradient checkpointing ({wider}): some things are computed twice"
        return Rung({"train.gradient_checkpointing": wider}, words)
    in_ram = not on_card or optim.offload  # then the card does not see the optimizer
    if optim.optimizer == "adamw" and not optim.offload:
        smaller_optimizer = "adamw8bit" if on_card and eight_bit else "adafactor"
        words = f"the optimizer {smaller_optimizer}, whose memory is smaller and starts afresh"
        return Rung({"optim.optimizer": smaller_optimizer}, words)
    if (rung := average_rung(config, on_card)) is not None:
        return rung
    if on_card and config.objective.sd_locked and train.base_storage == "same":
        return Rung({"train.base_storage": "fp8"}, "the frozen base in eight bits")
    if on_card and optim.optimizer == "adamw8bit":
        words = "the optimizer's memory in the computer's memory, starting afresh"
        return Rung({"optim.optimizer": "paged_adamw8bit"}, words)
    if not in_ram and train.precision != "fp32":  # in fp32 what learns is what computes
        words = "what learns kept in the computer's memory: slower steps"
        if "8bit" not in optim.optimizer:
            return Rung({"optim.offload": True}, words)
        settings = {"optim.offload": True, "optim.optimizer": "adafactor"}  # the 8-bit ones compute on the card
        return Rung(settings, f"{words}, with the optimizer adafactor, whose memory starts afresh")
    return None


def average_rung(config: RunConfig, on_card: bool) -> Rung | None:
    """The rung that takes the average from the card; None where it is not there."""
    optim = config.optim
    if not on_card or optim.offload or optim.ema_decay <= 0 or optim.ema_device != "same":
        return None
    return Rung({"optim.ema_device": "cpu"}, "the average of the weights in the computer's memory")


def climbed(config: RunConfig, about: dict[str, Any]) -> RunConfig:
    """The settings of a run with what its ladder has changed so far."""
    changes: dict[str, Any] = {}
    for rung in about.get("memory_ladder", []):
        changes |= rung["settings"]
    return parse(unflatten({**flatten(config.model_dump()), **changes})) if changes else config


def recover(trainer: Trainer, where: str) -> Rung:
    """Free what a failed try left, take the next rung, tell, record and return it.

    Call outside of the ``except`` block: the error holds the tensors of the try.

    Args:
        where: in which part of the work, for people.

    Raises:
        UserError: there is no rung left.
    """
    clear(trainer)
    on_card, among = trainer.device.type == "cuda", trainer.processes
    if among.count > 1 and trainer._broke_off:
        raise UserError(
            f"Memory ran out in mid-correction at step {trainer.step + 1:,}.",
            "Other processes may have made that correction already, so it cannot be tried again with less.",
            "Choose a smaller batch size, gradient checkpointing or an 8-bit optimizer, and start again.",
        )
    eight_bit = importlib.util.find_spec("bitsandbytes") is not None
    rung = among.tell(lambda: next_rung(trainer.config, on_card, eight_bit))
    if rung is None:
        raise UserError(
            "The memory is not enough for this run.",
            f"At step {trainer.step + 1:,} it ran out with the most thrifty settings there are.",
            "Close other programs that use the graphics card, choose a lower resolution, or a smaller base model.",
        )
    if among.main:
        _record(trainer, {"step": trainer.step, "where": where, "settings": rung.settings, "words": rung.words})
    if none_if_out_of_memory(partial(apply, trainer, rung)) is None:  # it takes a little memory itself
        clear(trainer)
        apply(trainer, rung)
    trainer.sharing.be_cautious()
    trainer.emit(
        Message(f"Memory ran out at step {trainer.step + 1:,} ({where}). Going on with {rung.words}.", "warning")
    )
    return rung


def note_for_resume(trainer: Trainer) -> str:
    """Of a run that has to end for want of memory: the rung that a resume begins with, noted; its words."""
    clear(trainer)
    on_card, eight_bit = trainer.device.type == "cuda", importlib.util.find_spec("bitsandbytes") is not None
    rung = next_rung(trainer.config, on_card, eight_bit)
    if rung is None:
        return "the same settings: close other programs first, or choose a lower resolution"
    _record(trainer, {"step": trainer.step, "where": "step", "settings": rung.settings, "words": rung.words})
    return rung.words


def settle(trainer: Trainer) -> None:
    """What follows once the weights have moved: copies and average come after them, whatever memory there is.

    Raises:
        UserError: memory ran out twice; a resume does the step anew.
    """
    step = f"step {trainer.step + 1:,}"
    once_more(trainer, f"copy of the weights of {step}", trainer.nets.refresh)
    if trainer.ema is not None:
        average, weights = trainer.ema, averaged_parameters(trainer.controlnet)
        rung = average_rung(trainer.config, trainer.device.type == "cuda")
        once_more(trainer, f"average of {step}", lambda: average.step(weights), rung)


def once_more(trainer: Trainer, what: str, action: Callable[[], T], rung: Rung | None = None) -> T:
    """``action()``, and a second time after memory was freed: for what most settings do not change.

    Args:
        what: for people, with the step.
        rung: that which does change it, taken before the second try.

    Raises:
        UserError: memory ran out both times.
    """
    error: BaseException | None
    try:
        return action()
    except (RuntimeError, MemoryError) as first:
        if not is_out_of_memory(first):
            raise
    clear(trainer)
    settings, words = (rung.settings, rung.words) if rung is not None else ({}, "memory was freed")
    if trainer.processes.main:
        _record(trainer, {"step": trainer.step, "where": what, "settings": settings, "words": words})
    done = f"Going on with {words}." if rung is not None else "Freed some and tried again."
    trainer.emit(Message(f"Memory ran out at the {what}. {done}", "warning"))
    try:
        if rung is not None:
            apply(trainer, rung)
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


def clear(trainer: Trainer) -> None:
    """Forget the gradients of a failed try and give memory back."""
    forget_gradients(trainer)
    free_memory()


def forget_gradients(trainer: Trainer) -> None:
    """As if the step had not been tried."""
    for parameter in trainer.learning.parameters():
        parameter.grad = None
    trainer.nets.forget_gradients()


def apply(trainer: Trainer, rung: Rung) -> Rung:
    """Change the settings of a trainer that is between two steps. Where it breaks off it can be asked for again."""
    config = parse(unflatten({**flatten(trainer.config.model_dump()), **rung.settings}))
    trainer.config = config
    trainer.batches.split(config.train.batch_size, config.train.accumulation)
    if "train.gradient_checkpointing" in rung.settings:
        checkpoint_gradients(trainer.nets.controlnet, trainer.unet, config.train.gradient_checkpointing)
    if "train.base_storage" in rung.settings:
        shrink(trainer.unet, trainer.controlnet, trainer.nets.controlnet)
    if "optim.ema_device" in rung.settings and trainer.ema is not None:
        trainer.ema.to("cpu")
    if "optim.offload" in rung.settings:
        to_ram(trainer.learning)
        trainer.accelerator.device_placement = False  # else the optimizer's memory would go back to the card
    if "optim.optimizer" in rung.settings or "optim.offload" in rung.settings:
        state = trainer.optimizer.state_dict() if "optim.optimizer" not in rung.settings else None
        optimizer = build_optimizer(trainer.learning, config.optim)
        if state is not None:
            optimizer.load_state_dict(state)  # which brings it to where the weights are now
        set_learning_rate(optimizer, trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer = optimizer
        trainer.accelerator._optimizers.remove(trainer.prepared_optimizer)
        trainer.prepared_optimizer = trainer.accelerator.prepare(trainer.optimizer)
        del state
        clear(trainer)
    return rung


@torch.no_grad()
def to_ram(learning: torch.nn.Module) -> None:
    """What learns, in place, so that all who hold these parameters see it; weights that are the base's own stay."""
    of_base = {id(layer.weight) for layer in thin_layers(learning).values()}
    for parameter in learning.parameters():
        if id(parameter) not in of_base:
            parameter.data = parameter.data.cpu()


def drop_finished(optimizer: torch.optim.Optimizer) -> None:
    """After an optimizer broke off in mid-step: the parameters that it had moved already must not move twice."""
    counts = {
        parameter: int(optimizer.state[parameter].get("step", 0)) if parameter in optimizer.state else 0
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    newest = max(counts.values())
    if min(counts.values()) < newest:
        for parameter, count in counts.items():
            if count == newest:
                parameter.grad = None


def cap_allocator(device: torch.device) -> None:
    """On Windows the driver spills into slow shared memory rather than refuse; stop short of that.

    Elsewhere an allocation that does not fit fails by itself, and nothing is capped.
    """
    if device.type != "cuda" or platform.system() != "Windows":
        return
    free, total = torch.cuda.mem_get_info(device)
    room = free + torch.cuda.memory_reserved(device) - WINDOWS_SPARE_BYTES
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.1, room / total)), device)


def _record(trainer: Trainer, rung: dict[str, Any]) -> None:
    """Into run.json. A full disk is no reason to end here: the next checkpoint waits for it."""
    try:
        about = json.loads((trainer.run_folder / "run.json").read_text(encoding="utf-8"))
        about.setdefault("memory_ladder", []).append(rung)
        write_run(trainer.run_folder, about)
    except OSError as error:
        words = f"The change was not noted in run.json ({error.strerror or error}); a resume has to find it out again."
        trainer.emit(Message(words, "warning"))
