"""What a run can change when memory runs out: what each change saves by prediction, and what it costs. No torch.

All combinations of the changes are predicted (``memory.predict_from``), and the cheapest that saves enough is taken:
never one that saves nothing with these settings, and none before a cheaper one that would do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from engine.config import RunConfig
from engine.config.presets import flatten
from engine.errors import UserError
from engine.estimate.memory import SLACK, Prediction, predict_from
from engine.families.files import BaseConfigs
from engine.runs.changes import with_settings
from engine.tuning.facts import facts_of

LEAST_SAVING = 0.02
"""Share of the predicted memory; a combination that saves less is not worth a change."""
ASSUMED_SHORTAGE = 0.05
"""Share of the predicted memory that is assumed to be missing if nothing else is known: a failed allocation only says
how much it lacked itself, and others follow it."""

# Time, in units of what one image takes without gradient checkpointing. Counted work and traffic of SD 1.5 at 512 px
# (docs/performance.md); not measured on cards.
CHECKPOINTING_WORK = {"none": 1.0, "controlnet": 1.08, "both": 1.26}
"""For each image."""
MICRO_BATCH = 0.12
"""For each micro-batch: starting some 2,500 kernels, which small batches do not hide."""
DISTILLED = 1.0
"""For each image: three more forward passes, of teacher and student, without gradients."""
FEW_BITS = {"fp8": 0.2, "int8": 0.2, "nf4": 0.3}
"""For each micro-batch: the base's weights are dequantized in every forward and backward pass."""
OPTIMIZER = {"adafactor": 0.3, "paged_adamw8bit": 1.0}
"""For each step, more than AdamW: more memory traffic; the state over PCIe."""
SPLIT = 0.3
"""For each step: master weights are put together from two halves, and taken apart."""
IN_BACKWARD = 0.02
"""For each step: the backward pass waits for the norms of the gradients, some 40 times."""
EMA_IN_RAM = 1.5
"""For each update of the EMA: the fp32 weights over PCIe."""
OFFLOAD = 4.0
"""For each step: gradients and weights over PCIe, and the optimizer on the processor."""
RESET_COST = 10.0
"""In per cent of a step's time: what another optimizer counts as. Its averages start from zero, and it trains a little
less steadily than AdamW in 32 bits."""

FOUR_BITS_COST = 15.0
"""In per cent of a step's time: what a base in 4 bits counts as. Its weights lose 9 %, and the net learns beside it."""
MODULATION_COST = 2.0
"""In per cent of a step's time: what modulation layers in 8 bits count as."""
CLIPPING_COST = 3.0
"""In per cent of a step's time: what it counts as that gradients are clipped one weight at a time."""


@dataclass(frozen=True)
class Machine:
    """Facts about the machine and the run's progress on which the choice of a fallback depends."""

    on_card: bool
    """The run is on a graphics card, so moving things to RAM helps."""
    eight_bit: bool
    """bitsandbytes is installed, and has kernels for the card."""
    paged: bool = True
    """Its optimizers' state can move between the card and RAM by itself."""
    fp8: bool = True
    """Weights can be stored in float8."""
    processes: int = 1
    free_ram: float = math.inf
    """Bytes that may be moved to the computer's memory."""
    sharded: bool = False
    """FSDP or DeepSpeed, which take neither another optimizer nor the EMA or weights in RAM."""
    can_split: bool = False
    """The master weights of the run in progress may be kept in two halves."""
    in_backward: bool = False
    """The run in progress may update its weights in the backward pass."""
    loads_base: bool = False
    """The base is loaded again, so that a quantized one may be stored in fewer bits."""


@dataclass(frozen=True)
class Shortage:
    """Bytes that are missing."""

    peak: float
    """At the peak of a step."""
    resident: float = 0.0
    """While the nets are built: for weights and EMA alone."""


@dataclass(frozen=True)
class Fallback:
    """A change of settings that saves memory, by their dotted names, and what it means."""

    settings: dict[str, Any]
    words: str
    saves: float = 0.0
    """Bytes at the peak of a step, by prediction."""
    saves_resident: float = 0.0
    """Bytes of weights and EMA."""
    cost: float = 0.0
    """Per cent of a step's time."""


def shortage_of_step(now: Prediction, usable: float | None, lacked: float) -> Shortage:
    """Bytes that a step lacks.

    Args:
        now: with the present settings.
        usable: bytes that this process can have on its card; None: not known.
        lacked: bytes that the failed allocation lacked; 0: not known.
    """
    return Shortage(max(ASSUMED_SHORTAGE * now.step, lacked, _above(now.step, usable)))


def shortage_to_build(now: Prediction, usable: float | None, lacked: float) -> Shortage:
    """Bytes that the nets, and the steps afterwards, lack. Arguments as for ``shortage_of_step``."""
    resident = max(ASSUMED_SHORTAGE * now.resident, lacked, _above(now.resident, usable))
    return Shortage(_above(now.step, usable), resident)


def _above(predicted: float, usable: float | None) -> float:
    return 0.0 if usable is None else max(0.0, predicted * SLACK - usable)


def next_fallback(config: RunConfig, base: BaseConfigs, machine: Machine, shortage: Shortage) -> Fallback | None:
    """The cheapest change that saves what is missing and keeps the effective batch size.

    If none saves enough, the one that saves most; None if none saves anything.
    """
    return choose(options(config, base, machine), predict_from(config, base, processes=machine.processes), shortage)


def choose(found: Sequence[Fallback], now: Prediction, shortage: Shortage) -> Fallback | None:
    """``next_fallback`` among given options.

    Args:
        now: with the present settings.
    """
    least, needed = LEAST_SAVING * now.step, max(shortage.peak, LEAST_SAVING * now.step)
    if shortage.resident:
        found = [one for one in found if one.saves_resident >= LEAST_SAVING * now.resident]

    def missing(one: Fallback) -> float:
        return max(0.0, needed - one.saves) + max(0.0, shortage.resident - one.saves_resident)

    best = min((missing(one) for one in found), default=math.inf)
    if needed + shortage.resident - best < least:
        return None
    allowed = best + (least if best > 0 else 0)  # if nothing is enough anyway, the last percent is not worth a change
    return min((one for one in found if missing(one) <= allowed), key=lambda one: one.cost)


def options(config: RunConfig, base: BaseConfigs, machine: Machine) -> list[Fallback]:
    """All changes, alone and together, with what they save and cost. Those that save nothing are among them."""
    now, before = predict_from(config, base, processes=machine.processes), flatten(config.model_dump())
    found = []
    for settings in _combinations(config, base, machine):
        try:
            changed = with_settings(config, settings)
        except UserError:
            continue  # these contradict the run's other settings
        then = predict_from(changed, base, processes=machine.processes)
        if then.ram - now.ram > machine.free_ram:
            continue
        words = "; ".join(_words(before, settings))
        cost = 100 * (step_time(changed) / step_time(config) - 1)
        cost += RESET_COST if "optim.optimizer" in settings else 0
        cost += CLIPPING_COST if "optim.in_backward" in settings else 0
        cost += MODULATION_COST if "train.modulation_storage" in settings else 0
        cost += FOUR_BITS_COST if settings.get("train.base_storage") == "nf4" else 0
        found.append(Fallback(settings, words, now.step - then.step, now.resident - then.resident, cost))
    return found


def step_time(config: RunConfig) -> float:
    """Predicted time of a step, in units of what one image takes without gradient checkpointing."""
    train, optim = config.train, config.optim
    micro_batches = config.images_per_step / train.batch_size
    denoiser_too = facts_of(config).checkpointed(train.gradient_checkpointing)[1]
    time = config.images_per_step * CHECKPOINTING_WORK["both" if denoiser_too else train.gradient_checkpointing]
    time += config.images_per_step * (DISTILLED if facts_of(config).distilled else 0)
    time += micro_batches * (MICRO_BATCH + FEW_BITS.get(train.base_storage, 0))
    time += IN_BACKWARD if optim.in_backward else 0
    if optim.offload:
        return time + OFFLOAD
    in_ram = optim.ema_decay > 0 and optim.ema_device == "cpu"
    time += SPLIT if optim.master_weights != "whole" else 0
    return time + OPTIMIZER.get(optim.optimizer, 0) + (EMA_IN_RAM / optim.ema_every if in_ram else 0)


def ema_fallback(config: RunConfig, on_card: bool) -> Fallback | None:
    """The fallback that moves the EMA from the card to RAM; None if it is not on the card."""
    optim = config.optim
    if not on_card or optim.offload or optim.ema_decay <= 0 or optim.ema_device != "same":
        return None
    settings = {"optim.ema_device": "cpu"}
    return Fallback(settings, "; ".join(_words({}, settings)))


def _combinations(config: RunConfig, base: BaseConfigs, machine: Machine) -> Iterator[dict[str, Any]]:
    """Settings that may be changed together. All keep the effective batch size."""
    train = config.train
    none: dict[str, Any] = {}
    batches = [none] + [
        {"train.batch_size": size, "train.accumulation": train.accumulation * train.batch_size // size}
        for size in range(train.batch_size - 1, 0, -1)
        if train.batch_size % size == 0
    ]
    scopes = list(CHECKPOINTING_WORK)
    wider = scopes[scopes.index(train.gradient_checkpointing) + 1 :]
    checkpointing = [none] + [{"train.gradient_checkpointing": scope} for scope in wider]
    storage = _storage(config, base, machine)
    for parts in product(batches, checkpointing, storage, [none] if machine.sharded else _learning(config, machine)):
        merged: dict[str, Any] = {}
        for part in parts:
            merged |= part
        if merged:
            yield merged


def _storage(config: RunConfig, base: BaseConfigs, machine: Machine) -> list[dict[str, Any]]:
    """No change; and the frozen base in fewer bits.

    A UNet in 8 bits. A transformer in 8 bits or in 4, and its modulation layers in 8. What is stored in 8 bits is
    stored in 4 only from the unquantized weights, as a resumed run would do.
    """
    train, found = config.train, [dict[str, Any]()]
    if not machine.on_card or not facts_of(config).base_is_frozen:
        return found
    if not base.facts.layers.modulation:
        stored = "fp8" if machine.fp8 else "int8"
        return [*found, {"train.base_storage": stored}] if train.base_storage == "same" else found
    if train.base_storage == "same":
        found.append({"train.base_storage": "int8"})
    if machine.eight_bit and (train.base_storage == "same" or (machine.loads_base and train.base_storage != "nf4")):
        found.append({"train.base_storage": "nf4"})
    if train.modulation_storage == "same":
        found += [{**one, "train.modulation_storage": "int8"} for one in found if one or train.base_storage != "same"]
    return found


def _learning(config: RunConfig, machine: Machine) -> list[dict[str, Any]]:
    """No change; optimizers with a smaller state; split master weights; updates in the backward pass; the EMA in RAM;
    and all trained weights in RAM."""
    optim = config.optim
    found: list[dict[str, Any]] = [{}]
    if not optim.offload:
        smaller = {
            "adamw": ("adamw8bit", "paged_adamw8bit", "adafactor"),
            "adamw8bit": ("paged_adamw8bit", "adafactor"),
        }
        bits = machine.on_card and machine.eight_bit
        usable = [name for name in smaller.get(optim.optimizer, ()) if bits or "8bit" not in name]
        usable = [name for name in usable if machine.paged or not name.startswith("paged")]
        found += [{"optim.optimizer": name} for name in usable]
    if machine.can_split and optim.master_weights == "whole":
        found += [{**one, "optim.master_weights": "split"} for one in found]
    if machine.in_backward and not optim.in_backward:
        found += [{**one, "optim.in_backward": True} for one in found]
    if (ema := ema_fallback(config, machine.on_card)) is not None:
        found += [{**one, **ema.settings} for one in found]
    if machine.on_card and not optim.offload and config.train.precision != "fp32":  # in fp32 the master weights compute
        # The 8-bit optimizers compute on the card only.
        other = {"optim.optimizer": "adafactor"} if "8bit" in optim.optimizer else {}
        found.append({"optim.offload": True, **other})
    return found


def _words(before: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    """Describe the changes for people."""
    if (size := settings.get("train.batch_size")) is not None:
        more = settings["train.accumulation"]
        yield f"{size} at a time instead of {before['train.batch_size']}, {more} micro-batches accumulated"
    if (scope := settings.get("train.gradient_checkpointing")) is not None:
        yield f"gradient checkpointing ({scope}): some activations are computed twice"
    if (storage := settings.get("train.base_storage")) is not None:
        yield f"the frozen base in {4 if storage == 'nf4' else 8} bits"
    if "train.modulation_storage" in settings:
        yield "the base's modulation layers in 8 bits"
    if (optimizer := settings.get("optim.optimizer")) is not None:
        where = "in the computer's memory" if "paged" in optimizer else "smaller"
        yield f"the optimizer {optimizer}, whose state is {where} and starts from zero"
    if "optim.master_weights" in settings:
        yield "the master weights in two halves, of which the copy that computes is one"
    if "optim.in_backward" in settings:
        yield "the weights updated in the backward pass, where gradients are clipped one weight at a time"
    if "optim.ema_device" in settings:
        yield "the average of the weights in the computer's memory"
    if "optim.offload" in settings:
        yield "the trained weights kept in the computer's memory: slower steps"
