"""What a run trains: a ControlNet, or the base itself."""

from __future__ import annotations

from typing import Literal

from engine.config.setting import Section, setting


class TuningConfig(Section):
    """What is trained."""

    what: Literal["controlnet", "lora", "base"] = setting(
        "controlnet",
        "What is trained",
        "controlnet: a net that makes images follow condition maps. lora: a small file that teaches the base a style "
        "or a subject from images and captions; it needs no condition maps. base: the base itself learns from such "
        "images, every weight of its denoiser; needs the most memory. Stable Diffusion 1.x, 2.x and XL.",
        affects_speed=True,
        why_fixed="Weights that were trained for one do not fit the other.",
    )
    rank: int = setting(
        16,
        "LoRA rank",
        "Rank (dim) of the LoRA's matrices. Alpha is set to the same number, so that every program uses the file at "
        "full strength. Usual: 8 to 32. For tiny bases such as 'demo': 8.",
        ge=1,
        le=256,
        affects_speed=True,
        why_fixed="The trained weights have the shape of this rank.",
        only=("lora",),
    )
    layers: Literal["attention", "linear", "all"] = setting(
        "all",
        "LoRA layers",
        "attention: the smallest file; reuses what the base can already draw. linear: all layers of the transformer "
        "blocks, as in most LoRA files. all: convolutions as well (LoCon, C3Lier); needed for shapes that the base has "
        "never seen.",
        affects_speed=True,
        why_fixed="The trained weights belong to these layers.",
        only=("lora",),
    )
