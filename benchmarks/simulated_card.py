"""A simulated graphics card that computes nothing and counts memory: the app's real code runs on it at real shapes.

Tensors are torch's fake tensors, which have a shape, dtype and device but no values. torch's device "meta" represents
the card, which keeps tensors on the card apart from those in RAM. Every block of memory is counted from its allocation
until the last tensor that uses it is gone, rounded up to 512 bytes like in torch's CUDA allocator
(c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize).

Not counted: workspaces of kernels (cuDNN, fp32 sums within the backward pass of attention), memory that the allocator
cannot use, and what CUDA itself takes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

CARD = torch.device("meta")
"""The simulated card."""
BLOCK = 512  # bytes
GROWTH = 1.005
"""The peak is broken down into parts again when it has grown by this factor."""

_ADAMW = torch.optim.AdamW
Holders = Callable[[], dict[str, Iterable[torch.Tensor | None]]]


class Counter(TorchDispatchMode):
    """Counts the bytes that are allocated on the card."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}  # storage -> bytes
        self._analyzed = 0.0  # the peak that ``parts`` describes
        self.now = self.peak = 0
        self.parts: dict[str, int] = {}
        """Bytes at the peak by holder; "activations" are all that no holder lists."""
        self.at = ""
        """The operation at the peak."""
        self.holders: Holders = dict
        """Lists the tensors of each part."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_iter(output):
            if isinstance(tensor, torch.Tensor) and tensor.device == CARD:
                self._count(tensor, func)
        return output

    def _count(self, tensor: torch.Tensor, func: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = -(-storage.nbytes() // BLOCK) * BLOCK
        weakref.finalize(storage, self._freed, key)
        self.now += self._alive[key]
        if self.now > self.peak:
            self.peak = self.now
            if self.now > self._analyzed * GROWTH:
                self._analyze_peak(func)

    def _freed(self, key: int) -> None:
        self.now -= self._alive.pop(key)

    def _analyze_peak(self, func: Any) -> None:
        backward = torch._C._current_graph_task_id() != -1
        self._analyzed, self.at = self.peak, f"{func} {'backward' if backward else 'forward'}"
        left, self.parts = dict(self._alive), {}
        for name, tensors in self.holders().items():
            keys = {tensor.untyped_storage()._cdata for tensor in tensors if tensor is not None}
            self.parts[name] = sum(left.pop(key, 0) for key in keys)
        self.parts["activations"] = sum(left.values())

    def reset_peak(self) -> None:
        """Forget the peak so far."""
        self.peak, self._analyzed = self.now, 0.0


@contextmanager
def counting(uses_ram: bool) -> Iterator[Counter]:
    """Within the block, tensors on ``CARD`` are counted.

    Args:
        uses_ram: make tensors in RAM fake, too. Otherwise they are real, and everything large must be made on ``CARD``.
    """
    with ExitStack() as stack:
        stack.enter_context(patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(patch("torch.nn.functional.scaled_dot_product_attention", fused_attention))
        # On a card AdamW is one fused kernel, which torch does not offer for the meta device.
        stack.enter_context(patch("torch.optim.AdamW", _fused_adamw))
        stack.enter_context(patch("torch.optim.adam._device_dtype_check_for_fused"))
        # The meta device has no random numbers.
        stack.enter_context(patch("engine.nets.compact_weights.generator_of", lambda place, device: None))
        if uses_ram:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Counter())


def _fused_adamw(groups: Any, *, fused: bool, **options: Any) -> torch.optim.Optimizer:
    return _ADAMW(groups, fused=True, **options)


def fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> torch.Tensor:
    """Attention with the memory it needs on a card: its output and one number per row, no matrix of all pairs.

    Flash attention in half precision (Dao 2023, arXiv 2307.08691); memory-efficient attention (Rabe and Staats 2021,
    arXiv 2112.05682) for what flash does not support: masks, fp32, heads wider than 256.
    """
    if query.dtype != torch.float32 and attn_mask is None and query.shape[-1] <= 256:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, attn_mask, query.requires_grad, dropout_p, is_causal, scale=scale)[0]


def _apply(self: nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
    """Replaces ``nn.Module._apply``, which ``to`` calls: torch's own swaps tensor data, which fake tensors forbid."""
    for child in self.children() if recurse else ():
        child._apply(change)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                moved = change(parameter)
            if moved.device != parameter.device:
                self._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
            elif moved is not parameter:
                parameter.data = moved
    self._buffers.update({name: change(buffer) for name, buffer in self._buffers.items() if buffer is not None})
    return self
