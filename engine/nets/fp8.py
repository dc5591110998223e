"""The frozen base: layers that keep no more than they need, and weights in eight bits.

Eight bits are half of what half precision takes, for a little accuracy and time.

Weights are kept as float8 (e4m3: three bits of mantissa) with a scale for each output channel, so that the largest
weight of a channel is the largest number of the format; without scales most weights of Stable Diffusion fall among the
format's smallest, coarsest numbers. A layer widens its weight when it computes, and again in the backward pass:
autograd keeps neither the wide weight nor the layer's input. Norms, biases, and both ends of the net stay as they are.

In any precision torch keeps what a convolution reads until the backward pass, even where its weight does not learn and
nobody asks for it (0.08 GB an image in the decoder of Stable Diffusion 1.5). Frozen ones keep their weight alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

FP8 = torch.float8_e4m3fn
INSIDE = ("down_blocks.", "mid_block.", "up_blocks.")
"""Parts of a UNet that are made small; what comes before and after has few weights and much to say."""


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: Any, bias: Any) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        return functional.linear(x, widened(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        (grad,) = grads
        to_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[3] else None
        return grad @ widened(weight, scale, grad.dtype), None, None, to_bias


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: Any, bias: Any, *how: Any) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.how, ctx.shape = how, x.shape
        return functional.conv2d(x, widened(weight, scale, x.dtype), bias, *how)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        (grad,) = grads
        to_bias = grad.sum((0, 2, 3)) if ctx.needs_input_grad[3] else None
        to_x = conv2d_input(ctx.shape, widened(weight, scale, grad.dtype), grad, *ctx.how)
        return to_x, None, None, to_bias, *[None] * len(ctx.how)


class SmallLinear(nn.Linear):
    """A linear layer whose weight is float8."""

    scale: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return answer(self, x)


class SmallConv2d(nn.Conv2d):
    """A convolution whose weight is float8."""

    scale: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return answer(self, x)


class LeanConv2d(nn.Conv2d):
    """A convolution that does not learn, and keeps nothing of what it reads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return answer(self, x)
        return super().forward(x)


KINDS: dict[type, type] = {nn.Linear: SmallLinear, nn.Conv2d: SmallConv2d, LeanConv2d: SmallConv2d}


def answer(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """What a frozen layer says, in the precision of ``x``; a float8 weight has a ``scale`` beside it."""
    scale = getattr(layer, "scale", None)
    if isinstance(layer, nn.Linear):
        return _Linear.apply(x, layer.weight, scale, layer.bias)
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _Conv2d.apply(x, layer.weight, scale, layer.bias, *how)


def widened(weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """A float8 weight in ``dtype``; one without a scale is wide as it is."""
    if scale is None:
        return weight
    return weight.to(dtype) * scale.to(dtype).reshape(-1, *[1] * (weight.ndim - 1))


def narrowed(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float8 and a scale (fp32) for each output channel."""
    wide = weight.float()
    largest = wide.abs().flatten(1).amax(dim=1).clamp_min(1e-12)
    scale = largest / torch.finfo(FP8).max
    return (wide / scale.reshape(-1, *[1] * (wide.ndim - 1))).to(FP8), scale


def keep_less(net: nn.Module) -> None:
    """Let the frozen convolutions of a net keep no inputs, in place; gradients are the same bits."""
    for layer in net.modules():
        if type(layer) is nn.Conv2d and not layer.weight.requires_grad:
            layer.__class__ = LeanConv2d


@torch.no_grad()
def shrink(unet: Any, *sharing: nn.Module, device: torch.device | None = None) -> None:
    """Change a frozen UNet in place; what was done already stays.

    Args:
        sharing: ControlNets whose ``thin_layers`` hold some of the same weights.
        device: where the small weights go, one by one: the wide ones (5 GB of XL) are never there together.
    """
    scales: dict[int, torch.Tensor] = {}
    for name, layer in unet.named_modules():
        if type(layer) in KINDS and name.startswith(INSIDE):
            small, scale = narrowed(layer.weight.to(device or layer.weight.device))
            layer.__class__ = KINDS[type(layer)]
            layer.weight.data = small  # the tensor object stays, so that those who share it see the change
            layer.register_buffer("scale", scale, persistent=False)
        if type(layer) in KINDS.values():
            scales[id(layer.weight)] = layer.scale
    for net in sharing:
        for layer in net.modules():
            if id(getattr(layer, "weight", None)) in scales:
                layer.register_buffer("scale", scales[id(layer.weight)], persistent=False)
