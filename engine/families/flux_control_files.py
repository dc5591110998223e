"""The files of a ControlNet for FLUX.1: diffusers' names, which ComfyUI reads, too. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.errors import UserError
from engine.families.control_files import ControlFiles, incomplete

PIXELS_IN_TOKEN = 4  # latents of 2 x 2
OF_QWEN = "transformer_blocks.0.img_mlp.net.0.proj.weight"
"""ComfyUI looks for it first: nets for Qwen-Image have the same trigger."""


class FluxControlFiles(ControlFiles):
    """diffusers' ``FluxControlNetModel``."""

    trigger = "controlnet_x_embedder.weight"
    config_mark = "axes_dims_rope"
    same_as_base = {
        "joint_attention_dim": "the width of its text",
        "in_channels": "the channels of its tokens",
        "num_attention_heads": "the heads of its attention",
        "attention_head_dim": "the width of a head",
        "pooled_projection_dim": "the width of its pooled text",
        "guidance_embeds": "reading the guidance scale",
    }
    own_entries = ("num_layers",)
    union_marks = ("controlnet_mode_embedder.",)

    def control_channels(self, config: Mapping[str, Any]) -> int:
        return int(config["in_channels"]) // PIXELS_IN_TOKEN

    def recognise(self, names: Collection[str]) -> str:
        return "" if OF_QWEN in names else super().recognise(names)

    def why_misread(self, shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any]) -> str:
        """ComfyUI's ``load_controlnet`` takes another net where the first tensor is missing or the second there, and
        adds mask channels where the control image's embedder is wider than the other
        (``comfy/controlnet.py``, ``load_controlnet_flux_instantx``)."""
        if "controlnet_blocks.0.weight" not in shapes or OF_QWEN in shapes:
            return "ComfyUI takes it for another kind of net"
        return ""

    def config_from_shapes(self, shapes: Mapping[str, Sequence[int]], name: str) -> dict[str, Any]:
        if "single_transformer_blocks.0.attn.to_q.weight" in shapes:
            raise UserError(
                f"{name} cannot be used here.",
                "Besides blocks with two streams it has single ones, and this app knows nets without them.",
                "Choose a ControlNet whose config.json has num_single_layers = 0.",
            )
        try:
            blocks = next(n for n in itertools.count() if f"transformer_blocks.{n}.attn.to_q.weight" not in shapes)
            width, channels = shapes["x_embedder.weight"]
            (head,) = shapes["transformer_blocks.0.attn.norm_q.weight"]
            if channels != shapes[self.trigger][1]:
                raise ValueError(f"its control image has {shapes[self.trigger][1]} channels in place of {channels}")
            return {
                "num_layers": blocks,
                "num_single_layers": 0,
                "in_channels": channels,
                "attention_head_dim": head,
                "num_attention_heads": width // head,
                "joint_attention_dim": shapes["context_embedder.weight"][1],
                "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
                "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
            }
        except (KeyError, IndexError, ValueError) as error:
            raise incomplete(name, error) from error


FLUX_FILES = FluxControlFiles()
