"""The names of XLabs' ControlNets for FLUX.1, whose control images are RGB. No torch.

They are those of Black Forest Labs' own code, by which ComfyUI knows such files (XLabs-AI/x-flux,
``src/flux/controlnet.py``). diffusers' class can hold such a net: its ``input_hint_block`` has the same layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
MARK = "double_blocks.0.img_attn.norm.key_norm.scale"
HINT = "input_hint_block.0.weight"
"""The first layer that reads an RGB control image."""
HINT_LAYERS = 8
NAMES = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "pos_embed_input": "controlnet_x_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "input_hint_block.0": "input_hint_block.conv_in",
    **{f"input_hint_block.{2 * n + 2}": f"input_hint_block.blocks.{n}" for n in range(HINT_LAYERS - 2)},
    f"input_hint_block.{2 * HINT_LAYERS - 2}": "input_hint_block.conv_out",
}
IN_BLOCK = {
    "img_mod.lin": "norm1.linear",
    "img_attn.proj": "attn.to_out.0",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mod.lin": "norm1_context.linear",
    "txt_attn.proj": "attn.to_add_out",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
NORMS = {
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
}
JOINED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
"""One layer there is three in diffusers."""
BLOCK = re.compile(r"double_blocks\.(\d+)\.(.+)")


def diffusers_names(entries: Mapping[str, T], thirds: Callable[[Any], Any]) -> dict[str, T]:
    """Tensors, or their shapes, under diffusers' names. What has no name there keeps its own.

    Args:
        thirds: the three parts of an entry along its first axis.
    """
    found: dict[str, T] = {}
    for name, entry in entries.items():
        layer, _, part = name.rpartition(".")
        block = BLOCK.fullmatch(layer) or BLOCK.fullmatch(name)
        inside = block[2] if block else ""
        stem = f"transformer_blocks.{block[1]}." if block else ""
        if inside in JOINED:
            for new, third in zip(JOINED[inside], thirds(entry), strict=True):
                found[f"{stem}{new}.{part}"] = third
        elif block and name.removeprefix(f"double_blocks.{block[1]}.") in NORMS:
            found[stem + NORMS[name.removeprefix(f"double_blocks.{block[1]}.")]] = entry
        elif inside in IN_BLOCK:
            found[f"{stem}{IN_BLOCK[inside]}.{part}"] = entry
        else:
            found[f"{NAMES.get(layer, layer)}.{part}"] = entry
    return found


def xlabs_names(tensors: Mapping[str, Any], join: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """The inverse of ``diffusers_names``. ``join``: of three tensors along the first axis."""
    outer = {new: old for old, new in NAMES.items()}
    inner = {new: old for old, new in IN_BLOCK.items()}
    norms = {new: old for old, new in NORMS.items()}
    first = {parts[0]: (old, parts) for old, parts in JOINED.items()}
    later = {part for parts in JOINED.values() for part in parts[1:]}
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", layer)
        if block is None:
            found[f"{outer.get(layer, layer)}.{part}"] = tensor
            continue
        stem, inside = f"double_blocks.{block[1]}.", block[2]
        if inside in first:
            old, parts = first[inside]
            prefix = layer.removesuffix(inside)
            found[f"{stem}{old}.{part}"] = join([tensors[f"{prefix}{one}.{part}"] for one in parts])
        elif f"{inside}.{part}" in norms:
            found[stem + norms[f"{inside}.{part}"]] = tensor
        elif inside not in later:
            found[f"{stem}{inner[inside]}.{part}"] = tensor
    return found
