"""Blocks of the frozen base that keep less for the backward pass. Outputs and gradients stay the same to the bit.

Gradients pass through the base's decoder on their way to the ControlNet. Of a group norm and the SiLU behind it torch
keeps the inputs of both, of GEGLU the projection and the activated gate. The second of each is computed again here, by
the same kernels: a few per cent of the block's time for half, or a third, of what it kept. Trained weights need more
than that, so blocks that have any stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional

GroupNormArguments = tuple[int, int, int, int, float]
"""Images, channels, pixels, groups, epsilon."""


class _NormSilu(torch.autograd.Function):
    """SiLU of a group norm with frozen weights; keeps the norm's input alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Any, bias: Any, how: GroupNormArguments) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.how = how
        return functional.silu(torch.native_group_norm(x, weight, bias, *how)[0])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        x, weight, bias = ctx.saved_tensors
        *sizes, groups, epsilon = ctx.how
        normalized, mean, deviation = torch.native_group_norm(x, weight, bias, *sizes, groups, epsilon)
        through = torch.ops.aten.silu_backward(grads[0], normalized).contiguous(memory_format=layout(x))
        del normalized
        kept = (through, x, mean, deviation, weight, *sizes, groups)
        to_x, *_ = torch.ops.aten.native_group_norm_backward(*kept, [True, False, False])
        return to_x, None, None, None


class _Geglu(torch.autograd.Function):
    """hidden * gelu(gate) of a projection (..., 2 n), hidden first; keeps it alone (Shazeer 2020, arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, projected: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(projected)
        hidden, gate = projected.chunk(2, dim=-1)
        return hidden * functional.gelu(gate)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (projected,) = ctx.saved_tensors
        hidden, gate = projected.chunk(2, dim=-1)
        to_projected = torch.empty_like(projected)
        to_hidden, to_gate = to_projected.chunk(2, dim=-1)
        torch.mul(grads[0], functional.gelu(gate), out=to_hidden)
        torch.ops.aten.gelu_backward.grad_input(grads[0] * hidden, gate, grad_input=to_gate)
        return to_projected


class FrozenResnetBlock(ResnetBlock2D):
    """A residual block (He et al. 2015, arXiv 1512.03385) as Stable Diffusion has them, see ``fits``."""

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None = None, *_: Any, **__: Any) -> torch.Tensor:
        """(B, C, h, w) -> (B, C', h, w); ``temb``: of the timestep, (B, T)."""
        hidden = self.conv1(norm_silu(input_tensor, self.norm1))
        if temb is not None and self.time_emb_proj is not None:
            hidden = hidden + self.time_emb_proj(functional.silu(temb))[:, :, None, None]
        hidden = self.conv2(norm_silu(hidden, self.norm2))
        direct = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        return direct + hidden if self.output_scale_factor == 1 else (direct + hidden) / self.output_scale_factor


class FrozenGEGLU(GEGLU):
    """GEGLU whose projection is frozen."""

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """(..., c) -> (..., n)."""
        return _Geglu.apply(self.proj(hidden_states))


def norm_silu(x: torch.Tensor, norm: nn.GroupNorm) -> torch.Tensor:
    """SiLU of a group norm of (B, C, h, w)."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return functional.silu(norm(x))
    how = (x.shape[0], x.shape[1], x[0, 0].numel(), norm.num_groups, norm.eps)
    return _NormSilu.apply(x.contiguous(memory_format=layout(x)), norm.weight, norm.bias, how)


def layout(x: torch.Tensor) -> torch.memory_format:
    """The layout in which torch's group norm computes: channels last only on a processor, if ``x`` (B, C, h, w) is."""
    last = x.is_cpu and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def fits(block: nn.Module) -> bool:
    """Whether a block is frozen and of the form of ``FrozenResnetBlock``: nothing between norm and SiLU, no dropout."""
    return (
        type(block) is ResnetBlock2D
        and not any(weight.requires_grad for weight in block.parameters())
        and block.time_embedding_norm == "default"
        and not block.skip_time_act
        and block.upsample is None
        and block.downsample is None
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.dropout.p == 0
    )


def use_frozen_blocks(net: nn.Module) -> None:
    """Make a net's frozen residual blocks and GEGLUs keep less, in place."""
    for layer in net.modules():
        if fits(layer):
            layer.__class__ = FrozenResnetBlock
        elif type(layer) is GEGLU and not layer.proj.weight.requires_grad:
            layer.__class__ = FrozenGEGLU
