"""The frozen base: layers that keep no more for the backward pass than they need, and weights in fp8.

fp8 takes half the memory of half precision, for a little accuracy and time.

Weights are stored as float8 (e4m3: three bits of mantissa) with one scale per output channel, so that a channel's
largest weight is among the format's largest numbers; without scales most weights of Stable Diffusion fall among the
format's smallest, coarsest numbers. Scales are powers of two, so that half precision holds them, and the weights times
them, exactly. Since a layer is linear in each output channel, the scale may as well multiply its output: that gives the
same bits, and is done where the output is smaller than the weight.

A layer dequantizes its weight for the forward pass and again for the backward pass: autograd keeps neither the
dequantized weight nor the layer's input. diffusers' ``enable_layerwise_casting`` has no scales, and autograd keeps the
dequantized weights there. Norms, biases, and both ends of the net stay as they are.

In any precision torch keeps a convolution's input until the backward pass, even where the weight is frozen and nobody
needs it (0.08 GB per image in the decoder of Stable Diffusion 1.5). ``FrozenConv2d`` keeps its weight alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from engine.families.layers import Layers

FP8 = torch.float8_e4m3fn
SMALLEST_SCALE = 2.0**-24


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: Any, bias: Any) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        if not scales_output(scale, x.numel() // x.shape[-1], weight, x.dtype):
            return functional.linear(x, dequantize(weight, scale, x.dtype), bias)
        factor = scale.to(x.dtype)
        return functional.linear(x, weight.to(x.dtype), None if bias is None else bias / factor).mul_(factor)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        (grad,) = grads
        to_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[3] else None
        if scales_output(scale, grad.numel() // grad.shape[-1], weight, grad.dtype):
            return (grad * scale.to(grad.dtype)) @ weight.to(grad.dtype), None, None, to_bias
        return grad @ dequantize(weight, scale, grad.dtype), None, None, to_bias


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: Any, bias: Any, *how: Any) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.how, ctx.shape = how, x.shape
        (down, across), *_ = how
        if not scales_output(scale, x.numel() // (x.shape[1] * down * across), weight, x.dtype):
            return functional.conv2d(x, dequantize(weight, scale, x.dtype), bias, *how)
        factor = scale.to(x.dtype)
        answer = functional.conv2d(x, weight.to(x.dtype), None if bias is None else bias / factor, *how)
        return answer.mul_(factor[:, None, None])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        (grad,) = grads
        to_bias = grad.sum((0, 2, 3)) if ctx.needs_input_grad[3] else None
        if scales_output(scale, grad.numel() // grad.shape[1], weight, grad.dtype):
            scaled = grad * scale.to(grad.dtype)[:, None, None]
            to_x = conv2d_input(ctx.shape, weight.to(grad.dtype), scaled, *ctx.how)
        else:
            to_x = conv2d_input(ctx.shape, dequantize(weight, scale, grad.dtype), grad, *ctx.how)
        return to_x, None, None, to_bias, *[None] * len(ctx.how)


class Fp8Linear(nn.Linear):
    """A linear layer whose weight is float8."""

    scale: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return frozen_forward(self, x)


class Fp8Conv2d(nn.Conv2d):
    """A convolution whose weight is float8."""

    scale: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return frozen_forward(self, x)


class FrozenConv2d(nn.Conv2d):
    """A convolution with a frozen weight, which does not keep its input for the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return frozen_forward(self, x)
        return super().forward(x)


KINDS: dict[type, type] = {nn.Linear: Fp8Linear, nn.Conv2d: Fp8Conv2d, FrozenConv2d: Fp8Conv2d}


def frozen_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Forward of a frozen layer, in the dtype of ``x``. An fp8 weight is multiplied by the layer's ``scale``."""
    scale = getattr(layer, "scale", None)
    if isinstance(layer, nn.Linear):
        return _Linear.apply(x, layer.weight, scale, layer.bias)
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _Conv2d.apply(x, layer.weight, scale, layer.bias, *how)


def scales_output(scale: torch.Tensor | None, positions: int, weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether to multiply a layer's output (or its gradient) by the scale, and not the weight: it moves less memory.

    Without its scale a channel's output is up to thousands of times as large, which fp16 cannot hold.

    Args:
        positions: pixels or tokens of the output, in the whole batch.
    """
    return scale is not None and dtype != torch.float16 and positions * weight.shape[0] < weight.numel()


def dequantize(weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """An fp8 weight in ``dtype``. A weight without a scale is returned unchanged."""
    if scale is None:
        return weight
    return weight.to(dtype) * scale.to(dtype).reshape(-1, *[1] * (weight.ndim - 1))


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (out, ...) in fp8, and its scale (out,) in fp32: powers of two, 2^-24 (which fp16 holds) or more."""
    unquantized = weight.float()
    largest = unquantized.abs().flatten(1).amax(dim=1).clamp_min(SMALLEST_SCALE)
    scale = torch.exp2(torch.log2(largest / torch.finfo(FP8).max).ceil()).clamp_min(SMALLEST_SCALE)
    return (unquantized / scale.reshape(-1, *[1] * (weight.ndim - 1))).to(FP8), scale


def use_frozen_convolutions(net: nn.Module) -> None:
    """Make a net's frozen convolutions keep no inputs, in place. Gradients stay the same to the bit."""
    for layer in net.modules():
        if type(layer) is nn.Conv2d and not layer.weight.requires_grad:
            layer.__class__ = FrozenConv2d


@torch.no_grad()
def quantize_fp8(denoiser: Any, *sharing: nn.Module, layers: Layers, device: torch.device | None = None) -> None:
    """Quantize a frozen denoiser in place. Layers that are in fp8 already stay as they are.

    Args:
        sharing: control nets whose LoRA layers share some of these weights; they receive the scales.
        layers: of the denoiser's family.
        device: where the fp8 weights go, one by one: the unquantized ones (5 GB of XL) are never there together.
    """
    scales: dict[int, torch.Tensor] = {}
    for name, layer in denoiser.named_modules():
        if type(layer) in KINDS and name.startswith(layers.quantized):
            small, scale = quantize(layer.weight.to(device or layer.weight.device))
            layer.__class__ = KINDS[type(layer)]
            layer.weight.data = small  # the tensor object stays, so that layers which share it see the change
            layer.register_buffer("scale", scale, persistent=False)
        if type(layer) in KINDS.values():
            scales[id(layer.weight)] = layer.scale
    for net in sharing:
        for layer in net.modules():
            if id(getattr(layer, "weight", None)) in scales:
                layer.register_buffer("scale", scales[id(layer.weight)], persistent=False)
