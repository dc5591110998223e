"""The settings of one image to draw, each declared once.

The command line (engine/cli/sample.py), the form of Try it (ui/try_it/try_panels.py), the text inside a PNG
(image_info.py), the check before drawing (request.py) and the grouping into batches (session.py) are all made from
these declarations. The field names are keys in PNG files: a renamed one needs a migration in image_info.py.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.config import RunConfig
from engine.inference import samplers
from engine.inference.declaration import Setting, setting
from engine.inference.engines import ENGINES
from engine.machine.onnx_packages import TORCH
from engine.tuning.facts import facts_of

SIZE_STEP = 64
"""Step of the image size in px: the UNet halves the latents, an eighth of the size, three times."""
MAX_SIDE = 2048


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Settings in which the images of one batch may differ."""

    prompt: str = setting(MISSING, "Prompt", "What the image should show.", lines=2, max_lines=20, panel="main")
    negative: str = setting("", "Negative prompt", "What the image should not show.", max_lines=3)
    seed: int = setting(
        0,
        "Seed",
        "Same seed, same image.",
        ge=0,
        le=2**62 - 1,
        panel="main",
        a1111="Seed",
    )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the images of one batch are sampled."""

    sampler: str = setting(
        samplers.DEFAULT, "Sampler", "How the noise is removed.", choices=samplers.SAMPLERS, a1111="Sampler"
    )
    steps: int = setting(
        20,
        "Sampling steps",
        "20 to 30 is usual; more is slower.",
        ge=1,
        le=1000,
        slider=(1, 100, 1),
        same_row=True,
        from_run="validation.sampling_steps",
        a1111="Steps",
    )
    guidance: float = setting(
        7.5,
        "Guidance (CFG) scale",
        "How closely the image follows the prompt; 7 to 8 is usual.",
        ge=1,
        le=100,
        slider=(1, 20, 0.5),
        from_run="validation.guidance_scale",
        a1111="CFG scale",
    )
    guidance_rescale: float = setting(
        0.0,
        "Guidance rescale",
        "Reduces the excess contrast and colour that guidance adds. 0.7 for bases with zero terminal SNR, whose images "
        "are otherwise too strong (Lin et al. 2023); 0 (off) for all others.",
        ge=0,
        le=1,
        slider=(0, 1, 0.05),
    )
    strength: float = setting(
        1.0,
        "Control strength",
        "0: off, 1: as trained.",
        ge=0,
        le=10,
        slider=(0, 2, 0.05),
        panel="main",
        same_row=True,
        from_run="validation.strength",
        a1111_control="Weight",
    )
    balance: str = setting(
        "balanced",
        "Control mode",
        "Which one wins if the prompt and the control image contradict each other.",
        choices=samplers.BALANCES,
        panel="control",
        a1111_control="Control Mode",
    )
    start: float = setting(
        0.0,
        "Control start",
        "Control begins after this fraction of the steps. 0: at the first step.",
        ge=0,
        le=1,
        slider=(0, 0.95, 0.05),
        panel="control",
        a1111_control="Guidance Start",
    )
    end: float = setting(
        1.0,
        "Control end",
        "Control ends after this fraction of the steps. Below 1, the last steps follow the prompt alone.",
        ge=0,
        le=1,
        slider=(0.05, 1, 0.05),
        panel="control",
        same_row=True,
        a1111_control="Guidance End",
    )
    union_mode: int = setting(
        -1,
        "Union mode",
        "Only for union ControlNets for FLUX.1: the kind of the control image. 0 is canny, 1 tile, 2 depth, 3 blur, "
        "4 pose, 5 gray, 6 low quality; -1: the one that was trained.",
        ge=-1,
        le=63,
        panel="control",
    )
    guess: bool = setting(
        False,
        "Guess mode",
        "Guesses the content from the control image alone. Leave the prompt empty and set the guidance (CFG) scale to "
        "3 to 5.",
        panel="control",
    )


@dataclass(frozen=True, kw_only=True)
class DrawSettings(SamplingOptions, PromptSettings):
    """Everything that can be set for one image."""

    clip_skip: int = setting(
        1,
        "Clip skip",
        "Use the value that the run was trained with. 1: the text encoder's last layer, 2: the second to last.",
        ge=1,
        le=12,
        slider=(1, 12, 1),
        from_run="model.clip_skip",
        a1111="Clip skip",
    )

    width: int = setting(
        512,
        "Width",
        "",
        unit="px",
        ge=SIZE_STEP,
        le=MAX_SIDE,
        slider=(SIZE_STEP, MAX_SIDE, SIZE_STEP),
        from_run="data.resolution",
    )
    height: int = setting(
        512,
        "Height",
        "",
        unit="px",
        ge=SIZE_STEP,
        le=MAX_SIDE,
        slider=(SIZE_STEP, MAX_SIDE, SIZE_STEP),
        same_row=True,
        from_run="data.resolution",
    )
    change: float = setting(
        0.75,
        "Denoising strength",
        "How much of the image changes: low values keep it, 1 ignores it; 0.75 is usual.",
        gt=0,
        le=1,
        slider=(0.05, 1, 0.05),
        panel="img2img",
        a1111="Denoising strength",
    )
    second: Path | None = setting(
        None,
        "Second ControlNet",
        "Another run, or the path of a file or folder.",
        panel="second",
        metavar="NET",
    )
    second_strength: float = setting(
        1.0,
        "Strength of the second ControlNet",
        "",
        ge=0,
        le=10,
        slider=(0, 2, 0.05),
        panel="second",
    )
    ingredients: str = setting(
        "",
        "LoRA and embedding files",
        "Files that are merged into the base before drawing, one per line: a path or a file name from models/loras or "
        "models/embeddings, followed by a weight if it is not 1, as in style.safetensors:0.8. The word that calls up "
        "an embedding is its file name. With an LCM or Lightning LoRA, draw in 4 to 8 steps at guidance 1.",
        panel="base",
        max_lines=8,
        lines=2,
        from_run="model.ingredients",
    )
    engine: str = setting(
        TORCH,
        "Engine",
        "What computes the ControlNet and the base. ONNX Runtime needs an export of the checkpoint in ONNX.",
        choices=ENGINES,
        panel="base",
        restored=False,  # another computer may not have it
    )
    base: str = setting(
        MISSING,
        "Base model",
        "A name in the models folder, a path or a Hugging Face id. It must be of the same family as the run's base.",
        panel="base",
        restored=False,  # the run brings its own, and a path is of no use on another computer
    )


@cache
def declared(cls: type | None = None) -> Mapping[str, Setting]:
    """Return the settings that a class declares (default: ``DrawSettings``), by name and in order."""
    cls = cls or DrawSettings
    hints = typing.get_type_hints(cls)
    found = {}
    for one in fields(cls):
        if "setting" in one.metadata:
            kind = Path if hints[one.name] == Path | None else hints[one.name]
            default = None if one.default is MISSING else one.default
            found[one.name] = replace(one.metadata["setting"], name=one.name, kind=kind, default=default)
    return MappingProxyType(found)


def run_defaults(config: RunConfig) -> dict[str, Any]:
    """Return the settings with which a run draws its own previews, as far as it has them."""
    plain = config.model_dump()
    found = {}
    for one in declared().values():
        if one.from_run:
            section, name = one.from_run.split(".")
            found[one.name] = plain[section][name]
    return {**found, **facts_of(config).drawn_with}
