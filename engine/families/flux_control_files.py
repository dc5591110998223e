"""The files of a ControlNet for FLUX.1: diffusers' names, which ComfyUI reads, too, or those of XLabs. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.families import flux_xlabs
from engine.families.control_files import RGB, ControlFiles, T, incomplete

PIXELS_IN_TOKEN = 4  # latents of 2 x 2
MODES = "controlnet_mode_embedder.weight"
"""A row for each kind of control image; only union nets have it."""
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
    }
    own_entries = (
        "num_layers",
        "num_single_layers",
        "guidance_embeds",
        "num_mode",
        "conditioning_embedding_channels",
        "patch_size",
    )
    may_read_rgb = True

    def control_channels(self, config: Mapping[str, Any]) -> int:
        return RGB if config.get("conditioning_embedding_channels") else int(config["in_channels"]) // PIXELS_IN_TOKEN

    def recognize(self, names: Collection[str]) -> str:
        if flux_xlabs.MARK in names and flux_xlabs.HINT in names:
            return "single_file"
        return "" if OF_QWEN in names else super().recognize(names)

    def names_in_file(self, tensors: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        if not self.is_of_rgb(config):
            return tensors
        import torch

        return flux_xlabs.xlabs_names(tensors, torch.cat)

    def plain_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        if flux_xlabs.MARK not in shapes:
            return dict(shapes)
        return flux_xlabs.diffusers_names(shapes, lambda shape: [(shape[0] // 3, *shape[1:])] * 3)

    def plain_names(self, format: str, tensors: Mapping[str, T]) -> dict[str, T]:
        if flux_xlabs.MARK not in tensors:
            return dict(tensors)
        return flux_xlabs.diffusers_names(tensors, lambda tensor: [part.contiguous() for part in tensor.chunk(3)])

    def blocks(self, config: Mapping[str, Any]) -> tuple[int, int]:
        return int(config["num_layers"]), int(config["num_single_layers"])

    def modes(self, config: Mapping[str, Any]) -> int:
        return int(config.get("num_mode") or 0)

    def why_misread(self, shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any]) -> str:
        """ComfyUI's ``load_controlnet`` takes another net where the first tensor is missing or the second there, and
        adds mask channels where the control image's embedder is wider than the other
        (``comfy/controlnet.py``, ``load_controlnet_flux_instantx``)."""
        if "controlnet_blocks.0.weight" not in shapes or OF_QWEN in shapes:
            return "ComfyUI treats it as another kind of net"
        if self.is_of_rgb(config) and flux_xlabs.MARK not in shapes:
            return "ComfyUI looks for other names in nets that read RGB control images"
        return ""

    def config_from_shapes(self, shapes: Mapping[str, Sequence[int]], name: str) -> dict[str, Any]:
        shapes = self.plain_shapes({layer: tuple(shape) for layer, shape in shapes.items()})
        hint = shapes.get("input_hint_block.conv_out.weight")
        try:
            blocks, single = (
                next(n for n in itertools.count() if f"{kind}.{n}.attn.to_q.weight" not in shapes)
                for kind in ("transformer_blocks", "single_transformer_blocks")
            )
            width, channels = shapes["x_embedder.weight"]
            (head,) = shapes["transformer_blocks.0.attn.norm_q.weight"]
            if channels != shapes[self.trigger][1]:
                raise ValueError(f"its control image has {shapes[self.trigger][1]} channels instead of {channels}")
            return {
                "num_layers": blocks,
                "num_single_layers": single,
                "num_mode": shapes[MODES][0] if MODES in shapes else None,
                "conditioning_embedding_channels": hint[0] if hint else None,
                "patch_size": 2 if hint else 1,  # of the features that the control image becomes
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
