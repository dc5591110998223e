"""Quantizes the text embeddings of the cache to int8, in blocks of 64 channels: half the space of fp16.

A block has a scale in fp16. Its largest value keeps fp16, with its place: single channels of a language model's hidden
states are a hundred times as large as the others (outliers), which would be rounded to zero beside them. The relative
error of normally distributed values is 0.6 %.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engine.families.text import INT8_BLOCK

SCALE, LARGEST, PLACE = ".scale", ".largest", ".place"
"""Suffixes of the tensors that belong to a quantized one."""
INT8_MAX = 127


def quantize(tables: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a shard, fp16, with those of tokens (n, length, width) in int8, and (n, length, width / 64)
    beside them. Pooled embeddings (n, width), which take next to nothing, stay as they are, and so do other widths.
    """
    found: dict[str, torch.Tensor] = {}
    for name, table in tables.items():
        if table.ndim < 3 or table.shape[-1] % INT8_BLOCK:
            found[name] = table
            continue
        blocks = table.unflatten(-1, (-1, INT8_BLOCK))
        whole = found[name] = torch.empty(table.shape, dtype=torch.int8)
        scale = found[name + SCALE] = torch.empty(blocks.shape[:-1], dtype=torch.float16)
        largest, place = torch.empty_like(scale), torch.empty(blocks.shape[:-1], dtype=torch.uint8)
        for row, block in enumerate(blocks):  # one caption at a time, since fp32 takes four times the space
            at = block.abs().argmax(dim=-1, keepdim=True)
            largest[row], place[row] = block.gather(-1, at)[..., 0], at[..., 0].to(torch.uint8)
            rest = block.float().scatter(-1, at, 0.0)
            scale[row] = (rest.abs().amax(dim=-1) / INT8_MAX).half()
            steps = scale[row].float().clamp_min(1e-12)[..., None]
            whole[row] = (rest / steps).round().clamp(-INT8_MAX, INT8_MAX).flatten(-2).to(torch.int8)
        found |= {name + LARGEST: largest, name + PLACE: place}
    return found


def dequantize(rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows of a shard, quantized or not, in fp32."""
    found = {}
    for name, values in rows.items():
        if name.endswith((SCALE, LARGEST, PLACE)):
            continue
        found[name] = values.float()
        if values.dtype == torch.int8:
            block = found[name].unflatten(-1, (-1, INT8_BLOCK)) * rows[name + SCALE].float()[..., None]
            at, largest = rows[name + PLACE].long()[..., None], rows[name + LARGEST].float()[..., None]
            found[name] = block.scatter(-1, at, largest).flatten(-2)
    return found
