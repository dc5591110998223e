"""The models that a run starts from."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from engine.config.setting import Section, setting
from engine.disk.typed_path import typed_path
from engine.workspace.base_reference import join, parse_ingredients


class ModelConfig(Section):
    """The models that the run starts from."""

    base: str = setting(
        "demo",
        "Base model",
        "The model that the ControlNet is trained for: a Stable Diffusion 1.x, 2.x or XL checkpoint (.safetensors, "
        ".ckpt), a folder in diffusers layout (also Stable Diffusion 3, FLUX.1, Z-Image), a Hugging Face id, or "
        "one of the tiny bases that come with the app, 'demo' and 'demo-transformer'.",
        affects_speed=True,
        why_fixed="The weights were trained for this base and do not fit another.",
    )
    ingredients: str = setting(
        "",
        "LoRA and embedding files",
        "Files that are merged into the base before training, one per line: a path or a file name from the "
        "workspace's models/loras or models/embeddings folder, followed by a weight if it is not 1, as in "
        "style.safetensors:0.8. The ControlNet is then trained for the base with this style or subject. The word "
        "that calls up an embedding is its file name. Empty, the usual choice: the base as it is.",
        lines=2,
        advanced=True,
        why_fixed="The weights were trained for the base with these files.",
    )
    clip_skip: int = setting(
        1,
        "Clip skip",
        "Which layer of the text encoder is read, counted from the end as in AUTOMATIC1111. 1, the usual choice: "
        "the last one. 2: the second to last, for SD 1.x anime bases whose authors recommend it. SD 2 and SDXL read "
        "the second to last anyway, so 1 and 2 are the same with them.",
        ge=1,
        le=12,
        advanced=True,
        why_fixed="The ControlNet was trained with the output of that layer.",
    )
    controlnet: str = setting(
        "",
        "Start from a ControlNet",
        "Empty: start from a copy of the base's encoder, as the ControlNet paper does. Otherwise the file or folder of "
        "a ControlNet to continue: .safetensors, .pth, .ckpt, a Control-LoRA, a diffusers folder, or a checkpoint of "
        "another run. A run that trains an LCM-LoRA draws under this net, which stays as it is.",
        advanced=True,
        why_fixed="It matters only at the start of a run.",
        only=("net",),
    )
    control_blocks: int = setting(
        0,
        "ControlNet blocks",
        "How many of a transformer base's blocks a new ControlNet copies. 0, the usual choice: as many as published "
        "ControlNets have (6 for Stable Diffusion 3, 2 for FLUX.1, 3 for Z-Image, for which 6 are also possible). "
        "Fewer need less memory and draw faster; more follow fine control images better.",
        advanced=True,
        affects_speed=True,
        ge=0,
        le=64,
        why_fixed="The trained weights are those of these blocks.",
        only=("transformers", "controlnet"),
    )
    control_lora_rank: int = setting(
        0,
        "Control-LoRA rank",
        "0 trains a whole ControlNet, the usual choice. 32 to 256 trains a Control-LoRA of this rank (dim): low-rank "
        "matrices on top of the base's own layers. It needs much less memory and makes a small file, but learns a "
        "little less. Use about ten times the learning rate (1e-4). For tiny bases such as 'demo' use 4 to 16.",
        advanced=True,
        affects_speed=True,
        ge=0,
        le=256,
        why_fixed="The shape of the trained weights depends on it.",
        only=("controlnet",),
    )
    low_rank_over: Literal["auto", "base", "start"] = setting(
        "auto",
        "Low rank on top of",
        "Only for a run that starts from a ControlNet and has a Control-LoRA rank. base: on top of the base's "
        "layers; only what fits into the rank is kept of what the ControlNet has learned. start: on top of the "
        "ControlNet's own layers, which stay unchanged and take memory in half precision; everything that it has "
        "learned is kept. auto: base for Stable Diffusion 1, 2 and XL, which have small Control-LoRA files, and "
        "start for other bases.",
        advanced=True,
        why_fixed="The trained weights are on top of these layers.",
        only=("controlnet",),
    )
    union_mode: int = setting(
        -1,
        "Union mode",
        "Only for a run that starts from a union ControlNet for FLUX.1: which of its control types to train. 0 is "
        "canny, 1 tile, 2 depth, 3 blur, 4 pose, 5 gray, 6 low quality. -1: none is chosen; a run from a union "
        "ControlNet then cannot start.",
        advanced=True,
        ge=-1,
        le=63,
        why_fixed="The weights were trained for this mode.",
        only=("transformers", "controlnet"),
    )
    hint_start: Literal["he", "default"] = setting(
        "he",
        "Control encoder initialisation",
        "Initial weights of the layers that read the control image in a new ControlNet. he, the usual choice: scaled "
        "(He et al. 2015) so that the image gets through from the first step, and the net follows it sooner; for "
        "Stable Diffusion 3, a copy of the base's layer that reads the noisy image. default: "
        "as in the original training scripts.",
        advanced=True,
        why_fixed="It matters only at the start of a run.",
        only=("controlnet",),
    )
    prediction: Literal["auto", "epsilon", "v"] = setting(
        "auto",
        "Prediction type",
        "What the base predicts. auto, the usual choice: what its config says, checked against the base's own loss "
        "on your images before the first step. If the loss clearly contradicts the config, the loss decides, and "
        "the log says so. epsilon (noise) and v (velocity, v-prediction) are used as set.",
        advanced=True,
    )
    zero_terminal_snr: Literal["auto", "on", "off"] = setting(
        "auto",
        "Zero terminal SNR",
        "Whether the base was trained with pure noise at the last timestep (ztsnr, Lin et al. 2023), as many "
        "v-prediction bases are. auto, the usual choice: as its config, its file or a .yaml next to it says.",
        advanced=True,
    )

    @property
    def whole_base(self) -> str:
        """The base with its ingredients, as ``Workspace.locate_base`` takes it."""
        return join(self.base, self.ingredients)

    @field_validator("ingredients")
    @classmethod
    def _one_per_line(cls, text: str) -> str:
        return "\n".join(str(one) for one in parse_ingredients(text))

    @field_validator("base", "controlnet")
    @classmethod
    def _as_meant(cls, text: str) -> str:
        return typed_path(text)
