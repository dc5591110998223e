"""The files of a ControlNet for a Stable Diffusion UNet: diffusers' names, LDM names, Control-LoRAs. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.errors import UserError
from engine.families import ldm_keys
from engine.families.control_files import DIFFERENCE_MARK, LORA_MARK, ControlFiles, T, incomplete


class UNetControlFiles(ControlFiles):
    """diffusers' ``ControlNetModel``, in each form that programs for SD 1.x, SD 2.x and SDXL read."""

    trigger = "controlnet_cond_embedding.conv_in.weight"
    config_mark = "block_out_channels"
    same_as_base = {
        "cross_attention_dim": "the width of its text",
        "block_out_channels": "the widths of its blocks",
        "in_channels": "the channels of its latents",
        "down_block_types": "its kinds of blocks",
        "layers_per_block": "the layers in its blocks",
        "use_linear_projection": "the linear projections of its attention",
    }
    own_entries = ("conditioning_embedding_out_channels",)
    # The third is spelled so in the files.
    union_marks = ("task_embedding", "control_add_embedding", "transformer_layes", "control_model.task_embedding")
    formats = ("single_file", "diffusers", "ldm", "pth", "control_lora", "onnx")
    programs = ("ComfyUI", "AUTOMATIC1111", "Forge")

    def control_channels(self, config: Mapping[str, Any]) -> int:
        return int(config.get("conditioning_channels", 3))

    def why_misread(self, shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any]) -> str:
        ldm_keys.to_ldm(dict(shapes), config)  # all three translate every name, and this fails where they would
        return ""

    def recognize(self, names: Collection[str]) -> str:
        if LORA_MARK in names:
            return "control_lora"
        if self.trigger in names:
            return "single_file"
        if ldm_keys.PREFIX + ldm_keys.TRIGGER in names:
            return "pth"
        return "ldm" if ldm_keys.TRIGGER in names else ""

    def holds_difference(self, names: Collection[str]) -> bool:
        return DIFFERENCE_MARK in names or ldm_keys.PREFIX + DIFFERENCE_MARK in names

    def plain_names(self, format: str, tensors: Mapping[str, T]) -> dict[str, T]:
        marks = (LORA_MARK, DIFFERENCE_MARK, ldm_keys.PREFIX + DIFFERENCE_MARK)
        plain = {name: tensor for name, tensor in tensors.items() if name not in marks}
        if format == "pth":  # the first published files hold the whole base, too
            plain = {name: tensor for name, tensor in plain.items() if name.startswith(ldm_keys.PREFIX)}
        return ldm_keys.from_ldm(plain) if format in ("pth", "ldm") else plain

    def lora_names(self, tensors: Mapping[str, T], config: Mapping[str, Any]) -> dict[str, T]:
        return ldm_keys.rename_from_ldm(tensors, config)

    def config_from_shapes(self, shapes: Mapping[str, Sequence[int]], name: str) -> dict[str, Any]:
        try:
            blocks = _count(shapes, "down_blocks.{}.resnets.0.conv1.weight")
            attention = [f"down_blocks.{n}.attentions.0.proj_in.weight" in shapes for n in range(blocks)]
            with_text = [key for key in shapes if key.endswith("attn2.to_k.weight")]
            if not with_text:
                raise UserError(
                    f"{name} cannot be used.",
                    "It has no attention layers, so it reads no prompt: it is a reduced net that only some programs "
                    "support.",
                    "Choose a complete ControlNet, or a Control-LoRA.",
                )
            pairs = _count(shapes, "controlnet_cond_embedding.blocks.{}.weight") // 2
            widths = [shapes[f"controlnet_cond_embedding.blocks.{2 * n + 1}.weight"][0] for n in range(pairs)]
            first = shapes["controlnet_cond_embedding.conv_in.weight"]
            return {
                "in_channels": shapes["conv_in.weight"][1],
                "conditioning_channels": first[1],
                "conditioning_embedding_out_channels": [first[0], *widths],
                "block_out_channels": [shapes[f"down_blocks.{n}.resnets.0.conv1.weight"][0] for n in range(blocks)],
                "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention],
                "layers_per_block": _count(shapes, "down_blocks.0.resnets.{}.conv1.weight"),
                "cross_attention_dim": shapes[with_text[0]][1],
            }
        except (KeyError, IndexError) as error:
            raise incomplete(name, error) from error


UNET_FILES = UNetControlFiles()


def _count(names: Mapping[str, Any], pattern: str) -> int:
    return next(number for number in itertools.count() if pattern.format(number) not in names)
