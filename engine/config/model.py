"""Which weights a run starts from."""

from __future__ import annotations

from typing import Literal

from engine.config.setting import Section, setting


class ModelConfig(Section):
    """Which weights the run starts from."""

    base: str = setting(
        "demo",
        "Base model",
        "What your ControlNet is made for: 'demo' (the tiny base that comes with the app), a Stable Diffusion 1.x, 2.x "
        "or XL model as one file (.safetensors, .ckpt) or as a folder in diffusers layout, or a Hugging Face id.",
        affects_speed=True,
    )
    controlnet: str = setting(
        "",
        "Start from a ControlNet",
        "Empty: start from a copy of the base, as the ControlNet paper does. Or the file or folder of a ControlNet to "
        "go on from: .safetensors, .pth, .ckpt, a Control-LoRA, a diffusers folder, or a checkpoint of another run.",
        advanced=True,
    )
    control_lora_rank: int = setting(
        0,
        "Control-LoRA rank",
        "0: the whole ControlNet learns. 32 to 256: a Control-LoRA, the lighter way: the copied layers stay the base's "
        "own, and thin matrices of this rank learn what to add. Needs much less memory and makes a small file; learns "
        "a little less. Wants a learning rate about ten times as high, 1e-4. For tiny bases such as 'demo' take 4 to "
        "16.",
        advanced=True,
        ge=0,
        le=256,
        affects_speed=True,
    )
    hint_start: Literal["he", "default"] = setting(
        "he",
        "Start of the hint encoder",
        "The part of a new ControlNet that reads the condition map starts from random numbers. 'he' scales them so "
        "that the map comes through from the first step, and the net listens sooner; 'default' does as the original "
        "scripts do.",
        advanced=True,
    )
