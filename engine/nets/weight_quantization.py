"""Quantizes the weights of a frozen net: to fp8, int8, or 4-bit NormalFloat.

fp8: float8 (e4m3: three bits of mantissa) with one scale per output channel, so that a channel's largest weight is
among the format's largest numbers; without scales most weights of Stable Diffusion fall among the format's smallest,
coarsest numbers. Scales are powers of two, so that half precision holds them, and the weights times them, exactly.

int8: integers from -127 to 127 with one scale per output channel, in fp32. The relative
error of normally distributed weights is 0.9 % (fp8: 2.6 %); an outlier makes the others of its channel coarser.

nf4: the 16 quantiles of a normal distribution, with one scale in bf16 for each block of 64 weights (Dettmers et al.
2023, arXiv 2305.14314): 4.25 bits for a weight, with a relative error of 9 %. Scales of 8 bits with scales of their own
("double quantization") would take 0.12 bits less, 0.13 GB of FLUX.1, and more kernels at each use. It is computed by
the package bitsandbytes, which works on processors from 0.50 on.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from engine.errors import UserError
from engine.families.sizes import NF4_BLOCK

FP8 = torch.float8_e4m3fn
STORAGES = {FP8: "fp8", torch.int8: "int8", torch.uint8: "nf4"}
"""The values of ``train.base_storage`` by the dtype of the quantized weight."""
SMALLEST_SCALE = 2.0**-24
LARGEST_INT8 = 127


def quantize(weight: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight (out, ...).

    Returns:
        The quantized weight, and its scales. fp8, int8: a tensor of the same shape, and (out,) in fp32; for fp8 powers
        of two, 2^-24 (which fp16 holds) or more. nf4: two weights in a byte, (n / 2, 1), and (n / 64,) in bf16, both
        rounded up.

    Raises:
        UserError: the package for this kind is not there.
    """
    if kind == "nf4":
        flat = functional.pad(weight.reshape(1, -1), (0, weight.numel() % 2))
        small, state = bitsandbytes_functional().quantize_4bit(
            flat, blocksize=NF4_BLOCK, compress_statistics=False, quant_type="nf4"
        )
        return small, state.absmax.to(torch.bfloat16)
    unquantized = weight.float()
    largest = unquantized.abs().flatten(1).amax(dim=1).clamp_min(SMALLEST_SCALE)
    if kind == "int8":
        scale = largest / LARGEST_INT8
        return (unquantized / _rows(scale, weight)).round_().to(torch.int8), scale
    scale = torch.exp2(torch.log2(largest / torch.finfo(FP8).max).ceil()).clamp_min(SMALLEST_SCALE)
    return (unquantized / _rows(scale, weight)).to(FP8), scale


def dequantize(
    weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype, shape: Sequence[int]
) -> torch.Tensor:
    """A quantized weight in ``dtype``. One without a scale is returned unchanged.

    Args:
        shape: of the unquantized weight.
    """
    if scale is None:
        return weight
    if weight.dtype == FP8:
        return weight.to(dtype) * _rows(scale.to(dtype), weight)
    if weight.dtype == torch.int8:  # computed in fp32, and on a card without a copy in fp32
        return torch.mul(weight, _rows(scale, weight), out=torch.empty(weight.shape, dtype=dtype, device=weight.device))
    bits, flat = bitsandbytes_functional(), torch.Size((1, 2 * weight.numel()))
    unquantized = bits.dequantize_4bit(weight, bits.QuantState(scale.float(), flat, None, NF4_BLOCK, "nf4", dtype))
    return unquantized[0, : math.prod(shape)].reshape(tuple(shape))


def _rows(scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def bitsandbytes_functional() -> Any:
    """The module ``bitsandbytes.functional``."""
    try:
        return importlib.import_module("bitsandbytes.functional")
    except Exception as error:  # loading it looks for CUDA, which fails in many ways
        raise UserError(
            "The base cannot be kept in 4 bits.",
            f"The package bitsandbytes is missing or does not load ({type(error).__name__}).",
            "Install it (pip install bitsandbytes), or set Base model precision to int8, which needs no package.",
        ) from error
