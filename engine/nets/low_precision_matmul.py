"""Low-precision matmuls of the frozen base (``train.base_products``). Experimental: not measured on cards yet.

8bit: a linear layer of the base multiplies weights that are quantized to int8 or fp8 (``weight_quantization.py``) by
inputs in the same type. Weights have a scale for each output channel, inputs one for each row (pixel or token),
computed each time (Dettmers et al. 2022, "LLM.int8()", arXiv 2208.07339; Micikevicius et al. 2022, "FP8 Formats for
Deep Learning", arXiv 2209.05433). The backward pass multiplies gradients, which have a larger range, by the dequantized
weight in the run's precision: the gradient is exactly that of a layer with the dequantized weight.

fp16_sums: fp16 matmuls of the base's linear layers accumulate in fp16 instead of fp32, in which GeForce cards are twice
as fast. torch has this switch for the whole process, so it is set around each of these matmuls alone: those of trained
weights accumulate in fp32.

Convolutions, attention and all that is trained compute as without this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from engine.config import TrainConfig
from engine.machine.capabilities import capabilities
from engine.machine.device import compute_capability, is_card, matmul_settings
from engine.nets import weight_quantization
from engine.nets.frozen_layers import QUANTIZED, QuantizedLinear, dequantized_weight

MatmulMode = Literal["", "8bit", "fp16_sums"]
"""How the base's linear layers multiply; "": as torch does by itself."""

EIGHT_BITS = (torch.int8, weight_quantization.FP8)
CARDS = {"int8": ((8, 0), "RTX 30"), "fp8": ((8, 9), "RTX 40")}
"""The least compute capability for matmuls in a kind of storage, and cards that have it."""
SMALLEST_ROW = 1e-12
MULTIPLE, MORE_THAN = 8, 16  # what CUDA's 8-bit matmuls ask of a layer's sizes, and of its number of rows


def matmul_mode(train: TrainConfig, dtype: torch.dtype, device: torch.device) -> tuple[MatmulMode, str]:
    """How the base's linear layers multiply on a device, and why not as the settings say, as a clause.

    Args:
        dtype: what the run computes in.
    """
    if train.base_products == "8bit":
        capability, cards = CARDS[train.base_storage]
        if not capabilities(device.type).eight_bit_matmul:
            return "", f"they need an NVIDIA {cards} card or newer"
        if device.type == "cuda" and compute_capability(device) < capability:
            return "", f"they need an {cards} card or newer"
        return "8bit", ""
    if train.base_products == "fp16_sums":
        if dtype != torch.float16:
            return "", "they are for runs in fp16"
        if not is_card(device):
            return "", "they need a graphics card"
        if not capabilities(device.type).fp16_accumulation:
            return "", "they need an NVIDIA graphics card"
        if not hasattr(matmul_settings(), "allow_fp16_accumulation"):
            return "", "this version of PyTorch does not have them"
        return "fp16_sums", ""
    return "", ""


def use_matmul_mode(denoiser: nn.Module, mode: MatmulMode) -> None:
    """Let a denoiser's frozen linear layers multiply so, in place."""
    for layer in denoiser.modules():
        if mode == "8bit" and type(layer) is QuantizedLinear and layer.weight.dtype in EIGHT_BITS:
            layer.__class__ = EightBitLinear
        elif mode == "fp16_sums" and type(layer) in (nn.Linear, QuantizedLinear) and not layer.weight.requires_grad:
            layer.__class__ = Fp16AccumulationLinear


class _EightBitMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: Any) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        rows = x.flatten(0, -2)
        if x.is_cuda and (len(rows) <= MORE_THAN or any(size % MULTIPLE for size in weight.shape)):
            return functional.linear(x, weight_quantization.dequantize(weight, scale, x.dtype, weight.shape), bias)
        small, row_scale = quantize_rows(rows, weight.dtype)
        sums = _matmul(small, weight, x.dtype).float().mul_(row_scale).mul_(scale)
        if bias is not None:
            sums.add_(bias)
        return sums.to(x.dtype).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        (grad,) = grads
        return grad @ weight_quantization.dequantize(weight, scale, grad.dtype, weight.shape), None, None, None


def quantize_rows(rows: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (n, k) in int8 or float8, and their scales (n, 1) in fp32: a row's largest becomes the type's largest."""
    wide = rows.float()
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    scale = wide.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST_ROW) / largest
    scaled = wide / scale
    return (scaled.round() if dtype == torch.int8 else scaled.clamp(-largest, largest)).to(dtype), scale


def _matmul(rows: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The product of 8-bit rows (n, k) and weights (m, k), without scales: (n, m), int32, or floating point for fp8."""
    if weight.dtype == torch.int8:
        return torch._int_mm(rows, weight.t())
    one = torch.ones((), device=rows.device)
    out = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32  # fp16 could not hold them
    return torch._scaled_mm(rows, weight.t(), scale_a=one, scale_b=one, out_dtype=out)


class EightBitLinear(QuantizedLinear):
    """A linear layer with 8-bit weights that multiplies in 8 bits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _EightBitMatmul.apply(x, self.weight, self.scale, self.bias)


class _Fp16Accumulation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.layer = layer
        with _fp16_accumulation(), torch.no_grad():
            return functional.linear(x, dequantized_weight(layer, x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = grads
        with _fp16_accumulation():
            return None, grad @ dequantized_weight(ctx.layer, grad.dtype)


@contextmanager
def _fp16_accumulation() -> Iterator[None]:
    matmul = matmul_settings()
    before = matmul.allow_fp16_accumulation
    matmul.allow_fp16_accumulation = True
    try:
        yield
    finally:
        matmul.allow_fp16_accumulation = before


class Fp16AccumulationLinear(nn.Linear):
    """A frozen linear layer whose matmuls accumulate in fp16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Fp16Accumulation.apply(self, x)


QUANTIZED[Fp16AccumulationLinear] = Fp16AccumulationLinear  # it reads quantized weights, too: memory may run out later
