"""The list of base model families. What differs between them is in their modules and in facts.py, nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.errors import UserError
from engine.families import distilled
from engine.families.base import Family
from engine.families.fitting_weights import misfit
from engine.families.flux import Flux
from engine.families.parts import read_component_config, read_optional_config
from engine.families.sd3 import StableDiffusion3
from engine.families.sdxl import StableDiffusionXL
from engine.families.stable_diffusion import StableDiffusion1, StableDiffusion2
from engine.families.unsupported import BaseParts
from engine.families.weight_files import incomplete_base, require_base, require_weights, require_words
from engine.families.zimage import ZImage

WITH_WEIGHTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Parts of a base that training loads."""
WITH_TEXT = ("text_encoder", "text_encoder_2", "text_encoder_3")
WITH_WORDS = ("tokenizer", "tokenizer_2", "tokenizer_3")
"""Parts that split text into tokens."""
FAMILIES: tuple[Family, ...] = (
    StableDiffusion1(),
    StableDiffusion2(),
    StableDiffusionXL(),
    StableDiffusion3(),
    Flux(),
    ZImage(),
)


def detect(base: str) -> Family:
    """The family of a base model, from its configs alone (no weights are read).

    Args:
        base: a folder in diffusers layout, a single file, or a Hugging Face id.

    Raises:
        UserError: not a diffusers pipeline, of a family that is not supported, or one that its family cannot train for.
    """
    if Path(base).is_dir():
        require_base(Path(base))
    index = read_component_config(base, "", "model_index.json")
    if not isinstance(index, Mapping):
        raise _refused(base, "Its model_index.json does not list its parts.")
    denoisers = {family.facts.denoiser for family in FAMILIES} & index.keys()
    configs = {name: read_component_config(base, name, "config.json") for name in denoisers}
    for family in FAMILIES:
        if family.facts.denoiser in configs and family.matches(index, configs[family.facts.denoiser]):
            parts = BaseParts(
                index,
                configs[family.facts.denoiser],
                read_optional_config(base, "scheduler", "scheduler_config.json"),
                read_optional_config(base, "vae", "config.json"),
            )
            if why := family.why_unsupported(parts):
                raise _refused(base, why)
            if Path(base).is_dir():
                present = [name for name, kind in index.items() if kind and kind != [None, None]]
                require_weights(Path(base), [name for name in WITH_WEIGHTS if name in present])
                require_words(Path(base), [name for name in WITH_WORDS if name in present])
            if Path(base).exists() and (why := misfit(base, index, (family.facts.denoiser, "vae", *WITH_TEXT))):
                raise incomplete_base(Path(base), why)
            return family
    raise _refused(base, f"It is a {index.get('_class_name', 'model of an unknown kind')}.")


def _refused(base: str, why: str) -> UserError:
    known = ", ".join(family.title for family in FAMILIES)
    return UserError(
        f"The base model {base} cannot be used.",
        f"{why} This version can train for: {known}.",
        "Choose a base of one of these families.",
    )


def describe(base: str, schedule: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A base for people: "Stable Diffusion 2.x, predicts velocity, made for 768 px".

    Args:
        schedule: what a run took it for, see ``NoiseProcess.schedule``; empty: what its config says.

    Raises:
        UserError: as ``detect``.
    """
    family, found = detect(base), distilled.recognize(base)
    predicts = family.noise_process(base).with_schedule(schedule).description
    words = [family.title, predicts, f"made for {family.default_resolution(base)} px"]
    return ", ".join(words if found is None else [*words, found.words])


def by_name(name: str) -> Family:
    """The family that a run or checkpoint names.

    Raises:
        UserError: this version does not know it.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise UserError(
        f"The model family {name} is unknown.", "It was written by another version of the app.", "Update the app."
    )
