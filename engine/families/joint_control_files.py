"""The files of a ControlNet for Stable Diffusion 3: diffusers' names, which ComfyUI reads, too. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from engine.families.control_files import ControlFiles, incomplete

REPEATED = 24
"""Blocks of the base over which ComfyUI spreads a net's outputs."""


class JointControlFiles(ControlFiles):
    """diffusers' ``SD3ControlNetModel``."""

    trigger = "pos_embed_input.proj.weight"
    config_mark = "joint_attention_dim"
    same_as_base = {
        "joint_attention_dim": "the width of its text",
        "in_channels": "the channels of its latents",
        "num_attention_heads": "the heads of its attention",
        "attention_head_dim": "the width of a head",
        "pooled_projection_dim": "the width of its pooled text",
        "patch_size": "the size of its tokens",
    }
    own_entries = ("num_layers", "force_zeros_for_pooled_projection", "extra_conditioning_channels")

    def control_channels(self, config: Mapping[str, Any]) -> int:
        return int(config["in_channels"]) + int(config.get("extra_conditioning_channels") or 0)

    def blocks(self, config: Mapping[str, Any]) -> tuple[int, int]:
        return int(config["num_layers"]), 0

    def why_misread(self, shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any]) -> str:
        """ComfyUI's ``load_controlnet`` takes another net where either tensor is missing, and repeats each output
        24 // n times (``comfy/controlnet.py``, ``load_controlnet_mmdit``)."""
        blocks = int(config["num_layers"])
        if "controlnet_blocks.0.weight" not in shapes or "transformer_blocks.0.adaLN_modulation.1.bias" in shapes:
            return "ComfyUI treats it as another kind of net"
        return "" if REPEATED % blocks == 0 else f"ComfyUI repeats {blocks} blocks unevenly over {REPEATED}"

    def config_from_shapes(self, shapes: Mapping[str, Sequence[int]], name: str) -> dict[str, Any]:
        try:
            blocks = next(n for n in itertools.count() if f"transformer_blocks.{n}.attn.to_q.weight" not in shapes)
            width, latents, patch, _ = shapes["pos_embed.proj.weight"]
            head = shapes.get("transformer_blocks.0.attn.norm_q.weight")
            found: dict[str, Any] = {
                "num_layers": blocks,
                "in_channels": latents,
                "patch_size": patch,
                "extra_conditioning_channels": shapes[self.trigger][1] - latents,
                "joint_attention_dim": shapes["context_embedder.weight"][1],
                "caption_projection_dim": shapes["context_embedder.weight"][0],
                "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
                "dual_attention_layers": [
                    n for n in range(blocks) if f"transformer_blocks.{n}.attn2.to_q.weight" in shapes
                ],
                "qk_norm": "rms_norm" if head else None,
            }
            if head:
                found |= {"attention_head_dim": head[0], "num_attention_heads": width // head[0]}
            return found
        except (KeyError, IndexError, ValueError) as error:
            raise incomplete(name, error) from error


JOINT_FILES = JointControlFiles()
