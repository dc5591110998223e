"""The trainable that a run's settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.config import RunConfig
from engine.errors import UserError
from engine.families.base import Family
from engine.nets.initial import in_own_memory, initial_controlnet
from engine.nets.singular_values import spectra_of
from engine.tuning.base_lora import BaseLora
from engine.tuning.controlnet import ControlLora, LowRankOverStart, WholeControlNet
from engine.tuning.facts import facts_of, is_over_start
from engine.tuning.lcm_lora import LcmLora, describe_net, require_same_net
from engine.tuning.learned_text import LearnedText, tokenizer_of
from engine.tuning.svdiff import SingularValues
from engine.tuning.textual_inversion import TextualInversion
from engine.tuning.trainable import Placement, Trainable
from engine.tuning.trainable_facts import TrainableFacts
from engine.tuning.unlocked import UnlockedDecoder
from engine.tuning.whole_base import WholeBase


@dataclass(frozen=True)
class Inputs:
    """The inputs from which a trainable is built."""

    run_folder: Path
    config: RunConfig
    family: Family
    base: str
    """Where the base is."""
    denoiser: Any
    """In ``base_dtype``. Once the trainable is built it is in the placement's dtype."""
    place: Placement
    progress: Callable[[int, int], None] = lambda done, total: None
    """Called as progress(done, total) while the initial net is made; may raise Cancelled."""

    @property
    def facts(self) -> TrainableFacts:
        return facts_of(self.config)

    @property
    def over_start(self) -> bool:
        """Low-rank factors are on top of the weights of the net that the run starts from."""
        return is_over_start(self.config, self.family.facts)


@dataclass(frozen=True)
class Builder:
    """How one kind of trainable is built."""

    build: Callable[[Inputs, Any], Trainable]
    """From the inputs and the initial net."""
    initial: Callable[[Inputs], Any] = lambda inputs: None
    """The net that training starts from beside the base, made before the base is quantized; None: there is none."""


def base_dtype(config: RunConfig, dtype: torch.dtype) -> torch.dtype:
    """The dtype to load the denoiser in: the run's if it is frozen, fp32 if master weights start from it."""
    return dtype if facts_of(config).base_is_frozen else torch.float32


def initial_net(inputs: Inputs) -> Any:
    """The net that training starts from beside the base, fp32; None where the trainable has none.

    Raises:
        UserError: the file that it starts from is missing, broken, or for another base.
    """
    return BUILDERS[inputs.facts.kind].initial(inputs)


def build_trainable(inputs: Inputs, net: Any) -> Trainable:
    """Build the trainable of a run.

    Args:
        net: from ``initial_net``.
    """
    return BUILDERS[inputs.facts.kind].build(inputs, net)


def _controlnet(inputs: Inputs) -> Any:
    return initial_controlnet(
        inputs.run_folder,
        inputs.config,
        inputs.family,
        inputs.base,
        inputs.denoiser,
        inputs.facts.rank,
        inputs.facts.learned.blocks,
        inputs.place.device,
        inputs.place.dtype if inputs.over_start else None,
    )


def _silent(inputs: Inputs) -> tuple[str, ...]:
    if not inputs.config.objective.only_mid_control:
        return ()
    outer = inputs.family.layers.outer_outputs
    return _required(outer, "Control only in the middle", "Its ControlNet has no middle block", "off")


def _required(modules: tuple[str, ...], title: str, why: str, instead: str) -> tuple[str, ...]:
    """Modules that a setting is about; UserError where a base of this family has none."""
    if not modules:
        raise UserError(f"{title} cannot be changed for this base.", f"{why}.", f"Switch {title} {instead}.")
    return modules


def _whole(inputs: Inputs, net: Any) -> WholeControlNet:
    return WholeControlNet(net, inputs.place, _silent(inputs))


def _low_rank(inputs: Inputs, net: Any) -> WholeControlNet:
    kind = LowRankOverStart if inputs.over_start else ControlLora
    return kind(net, inputs.place, _silent(inputs))


def _unlocked(inputs: Inputs, net: Any) -> Trainable:
    why = "It is a transformer: control enters at every block, so no part of it comes only after the control"
    _required(inputs.family.layers.after_control, "Keep the base frozen", why, "on")
    build = _low_rank if inputs.facts.rank else _whole
    return UnlockedDecoder(inputs.denoiser, inputs.place, inputs.family.layers, lambda: build(inputs, net))


def _lora(inputs: Inputs, net: Any) -> Trainable:
    text = _learned_text(inputs, inputs.place.dtype) if inputs.facts.learned.text else None
    return BaseLora(inputs.denoiser, inputs.place, inputs.config, inputs.family, text)


def _lcm(inputs: Inputs, net: Any) -> Trainable:
    file = describe_net(inputs.config.model.controlnet) if net is not None else None
    return LcmLora(inputs.denoiser, inputs.place, inputs.config, inputs.family, net, file)


def _frozen_net(inputs: Inputs) -> Any:
    """The ControlNet under which student and teacher draw, fp32; None: they draw by prompts alone."""
    from engine.nets.importing import open_controlnet

    chosen = inputs.config.model.controlnet
    if not chosen:
        return None
    require_same_net(inputs.run_folder, chosen)
    return in_own_memory(open_controlnet(chosen, inputs.family, inputs.base))


def _whole_base(inputs: Inputs, net: Any) -> Trainable:
    config = inputs.config
    if not inputs.facts.learned.text:
        return WholeBase(inputs.denoiser, inputs.place)
    share = config.tuning.text_rate / config.optim.learning_rate
    return WholeBase(inputs.denoiser, inputs.place, _learned_text(inputs, torch.float32), share)


def _learned_text(inputs: Inputs, dtype: torch.dtype) -> LearnedText:
    """The base's own text encoders, frozen, where the run computes."""
    family, place = inputs.family, inputs.place
    encoder: Any = family.load_text_encoder(inputs.base, dtype)
    tokenizer = family.load_tokenizer(inputs.base)
    return LearnedText(family, tokenizer, encoder.to(place.device), inputs.config.text)


def _word(inputs: Inputs, net: Any) -> Trainable:
    tokenizer_of(inputs.config, inputs.family, inputs.base)  # refuses a word that the base knows
    text = _learned_text(inputs, inputs.place.dtype)
    return TextualInversion(inputs.denoiser, inputs.family, inputs.config.tuning, text, inputs.place)


BUILDERS = {
    "new_word": Builder(_word),
    "lora": Builder(_lora),
    "lcm": Builder(_lcm, _frozen_net),
    "whole_base": Builder(_whole_base),
    "svdiff": Builder(
        lambda inputs, spectra: SingularValues(inputs.denoiser, inputs.place, spectra),
        lambda inputs: spectra_of(inputs.denoiser, inputs.place.device, inputs.progress),
    ),
    "controlnet": Builder(_whole, _controlnet),
    "control_lora": Builder(_low_rank, _controlnet),
    "unlocked_decoder": Builder(_unlocked, _controlnet),
}
"""By ``TrainableFacts.kind``."""
