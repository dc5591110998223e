"""The frozen base: layers that keep no more for the backward pass than they need, and whose weights may be quantized.

A quantized layer (weight_quantization.py) dequantizes its weight for the forward pass and again for the backward pass:
autograd keeps neither the dequantized weight nor the layer's input. Since a layer is linear in each output channel, a
scale of fp8 may as well multiply its output: that gives the same bits, and is done where the output is smaller than the
weight. diffusers' ``enable_layerwise_casting`` has no scales, and autograd keeps the dequantized weights there.

Norms, biases, and both ends of the net keep their precision. Layers that modulate (they make scale and shift of every
token from the timestep and the pooled text) have a storage of their own: what they lose acts on all tokens alike, and
does not average out.

In any precision torch keeps a convolution's input until the backward pass, even where the weight is frozen and nobody
needs it (0.08 GB per image in the decoder of Stable Diffusion 1.5). ``FrozenConv2d`` keeps its weight alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from engine.families.layers import Layers
from engine.machine.optional import why_no_four_bits
from engine.nets import weight_quantization
from engine.nets.weight_quantization import dequantize


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: Any, bias: Any, shape: Any) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.weight_shape = shape
        if not scales_output(scale, x.numel() // x.shape[-1], weight, x.dtype):
            return functional.linear(x, dequantize(weight, scale, x.dtype, shape), bias)
        factor = scale.to(x.dtype)
        return functional.linear(x, weight.to(x.dtype), None if bias is None else bias / factor).mul_(factor)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        (grad,) = grads
        to_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[3] else None
        if scales_output(scale, grad.numel() // grad.shape[-1], weight, grad.dtype):
            return (grad * scale.to(grad.dtype)) @ weight.to(grad.dtype), None, None, to_bias, None
        return grad @ dequantize(weight, scale, grad.dtype, ctx.weight_shape), None, None, to_bias, None


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Any, scale: Any, bias: Any, shape: Any, *how: Any) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.how, ctx.shape, ctx.weight_shape = how, x.shape, shape
        (down, across), *_ = how
        if not scales_output(scale, x.numel() // (x.shape[1] * down * across), weight, x.dtype):
            return functional.conv2d(x, dequantize(weight, scale, x.dtype, shape), bias, *how)
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
            unquantized = dequantize(weight, scale, grad.dtype, ctx.weight_shape)
            to_x = conv2d_input(ctx.shape, unquantized, grad, *ctx.how)
        return to_x, None, None, to_bias, None, *[None] * len(ctx.how)


class QuantizedLinear(nn.Linear):
    """A linear layer with a quantized weight."""

    scale: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return frozen_forward(self, x)


class QuantizedConv2d(nn.Conv2d):
    """A convolution with a quantized weight."""

    scale: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return frozen_forward(self, x)


class FrozenConv2d(nn.Conv2d):
    """A convolution with a frozen weight, which does not keep its input for the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return frozen_forward(self, x)
        return super().forward(x)


QUANTIZED: dict[type, type] = {nn.Linear: QuantizedLinear, nn.Conv2d: QuantizedConv2d, FrozenConv2d: QuantizedConv2d}


def frozen_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Forward of a frozen layer, in the dtype of ``x``. A quantized weight has the layer's ``scale``."""
    scale, shape = getattr(layer, "scale", None), weight_shape(layer)
    if isinstance(layer, nn.Linear):
        return _Linear.apply(x, layer.weight, scale, layer.bias, shape)
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _Conv2d.apply(x, layer.weight, scale, layer.bias, shape, *how)


def frozen_mixing(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Mix the channels of images (B, C, h, w) with a frozen matrix (out, C); keeps no images for the backward pass."""
    weight = matrix[..., None, None]
    return _Conv2d.apply(x, weight, None, None, tuple(weight.shape), (1, 1), (0, 0), (1, 1), 1)


def weight_shape(layer: Any) -> tuple[int, ...]:
    """The shape of a layer's weight before it was quantized."""
    return tuple(getattr(layer, "unquantized_shape", layer.weight.shape))


def dequantized_weight(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """A layer's weight in ``dtype``, quantized or not."""
    return dequantize(layer.weight, getattr(layer, "scale", None), dtype, weight_shape(layer)).to(dtype)


def is_quantized(layer: Any) -> bool:
    """Whether a layer's weight is quantized."""
    return layer.weight.dtype in weight_quantization.STORAGES


def scales_output(scale: torch.Tensor | None, positions: int, weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether to multiply an fp8 layer's output (or its gradient) by the scale, and not the weight: it moves less
    memory.

    Without its scale a channel's output is up to thousands of times as large, which fp16 cannot hold.

    Args:
        positions: pixels or tokens of the output, in the whole batch.
    """
    usable = scale is not None and weight.dtype == weight_quantization.FP8 and dtype != torch.float16
    return usable and positions * weight.shape[0] < weight.numel()


def use_frozen_convolutions(net: nn.Module) -> None:
    """Make a net's frozen convolutions keep no inputs, in place. Gradients stay the same to the bit."""
    for layer in net.modules():
        if type(layer) is nn.Conv2d and not layer.weight.requires_grad:
            layer.__class__ = FrozenConv2d


@torch.no_grad()
def quantize_base(
    denoiser: Any,
    *sharing: nn.Module,
    kind: str,
    modulation: str,
    layers: Layers,
    device: torch.device | None = None,
) -> None:
    """Quantize a frozen denoiser's weights, in place. Layers that are quantized already stay as they are.

    Args:
        sharing: control nets whose LoRA layers share some of these weights; they receive the scales.
        kind: fp8, int8 or nf4.
        modulation: of the layers that modulate: "same" (they keep their precision), int8, or "base" (as the others).
        layers: of the denoiser's family.
        device: where the quantized weights go, one by one: the unquantized ones (5 GB of XL) are never there together.

    Raises:
        UserError: the package for this kind is not there.
    """
    quantized: dict[int, Any] = {}
    for name, layer in denoiser.named_modules():
        if type(layer) in QUANTIZED and name.startswith(layers.quantized):
            own = kind
            if layers.modulates(name) and modulation != "base":
                own = modulation
            if own != "same":
                small, scale = weight_quantization.quantize(layer.weight.to(device or layer.weight.device), own)
                layer.__class__, layer.unquantized_shape = QUANTIZED[type(layer)], layer.weight.shape
                layer.weight.data = small  # the tensor object stays, so that layers which share it see the change
                layer.register_buffer("scale", scale, persistent=False)
        if type(layer) in QUANTIZED.values():
            quantized[id(layer.weight)] = layer
    for net in sharing:
        for layer in net.modules():
            if original := quantized.get(id(getattr(layer, "weight", None))):
                layer.unquantized_shape = original.unquantized_shape
                layer.register_buffer("scale", original.scale, persistent=False)


def quantize_as_trained(denoiser: Any, about: Mapping[str, Any], layers: Layers, device: torch.device) -> Any:
    """The denoiser of a base, frozen, on a device, quantized as in the run of a checkpoint.

    It is not quantized where the package for 4 bits is missing.

    Args:
        about: the checkpoint's; empty: of a net whose run is not known.
    """
    stored = about.get("base_storage")
    if stored and not (stored["kind"] == "nf4" and why_no_four_bits(device.type)):
        quantize_base(denoiser, **stored, layers=layers, device=device)
    return denoiser.to(device)
