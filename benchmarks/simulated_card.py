"""A card that computes nothing and counts what it would hold: real code, real shapes, no memory and no card.

Tensors are torch's fake ones: they know size, type and place, and have no numbers. torch's device "meta" stands for the
card, so that what is there and what is in the computer's memory stay apart, as on a real one. Every block of memory is
counted from its making until the last tensor that uses it is gone, rounded up to 512 bytes as torch's allocator for
CUDA does (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize).

Not counted: what kernels take for themselves while they run (cuDNN's workspaces, sums in fp32 within the backward pass
of attention), what the allocator cannot use, and CUDA's own.
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
"""What stands for the card."""
BLOCK = 512
CLOSER = 1.005
"""What is alive is looked at again when the peak has grown so much."""

_ADAMW = torch.optim.AdamW
Holders = Callable[[], dict[str, Iterable[torch.Tensor | None]]]


class Counter(TorchDispatchMode):
    """Counts bytes alive on the card."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}
        self._seen = 0.0
        self.now = self.peak = 0
        self.parts: dict[str, int] = {}
        """At the peak, by who holds them; ``rest``: all that nobody does."""
        self.at = ""
        """The operation at the peak."""
        self.holders: Holders = dict

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        for tensor in tree_iter(answer):
            if isinstance(tensor, torch.Tensor) and tensor.device == CARD:
                self._see(tensor, func)
        return answer

    def _see(self, tensor: torch.Tensor, func: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = -(-storage.nbytes() // BLOCK) * BLOCK
        weakref.finalize(storage, self._gone, key)
        self.now += self._alive[key]
        if self.now > self.peak:
            self.peak = self.now
            if self.now > self._seen * CLOSER:
                self._look(func)

    def _gone(self, key: int) -> None:
        self.now -= self._alive.pop(key)

    def _look(self, func: Any) -> None:
        backward = torch._C._current_graph_task_id() != -1
        self._seen, self.at = self.peak, f"{func} {'backward' if backward else 'forward'}"
        left, self.parts = dict(self._alive), {}
        for name, tensors in self.holders().items():
            keys = {tensor.untyped_storage()._cdata for tensor in tensors if tensor is not None}
            self.parts[name] = sum(left.pop(key, 0) for key in keys)
        self.parts["rest"] = sum(left.values())

    def begin(self) -> None:
        """Forget the peak so far."""
        self.peak, self._seen = self.now, 0.0


@contextmanager
def counting(beside: bool) -> Iterator[Counter]:
    """Within the block tensors on ``CARD`` are counted.

    Args:
        beside: those in the computer's memory are to be fake, too. Else make all that is large on ``CARD`` at once.
    """
    with ExitStack() as stack:
        stack.enter_context(patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(patch("torch.nn.functional.scaled_dot_product_attention", fused_attention))
        # On a card AdamW is one kernel, which torch does not have for the device that stands for it.
        stack.enter_context(patch("torch.optim.AdamW", _fused_adamw))
        stack.enter_context(patch("torch.optim.adam._device_dtype_check_for_fused"))
        if beside:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Counter())


def _fused_adamw(groups: Any, *, fused: bool, **options: Any) -> torch.optim.Optimizer:
    return _ADAMW(groups, fused=True, **options)


def fused_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, **_: Any,
) -> torch.Tensor:  # fmt: skip
    """Attention as a card has it: its answer and a number for each row, never the square of all pairs.

    Flash attention in half precision (Dao 2023, arXiv 2307.08691), the memory-efficient one else (Rabe and Staats 2021,
    arXiv 2112.05682), which takes what flash does not: masks, fp32, heads wider than 256.
    """
    if query.dtype != torch.float32 and attn_mask is None and query.shape[-1] <= 256:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, attn_mask, query.requires_grad, dropout_p, is_causal, scale=scale)[0]


def _apply(self: nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
    """``nn.Module._apply``, behind ``to``, for fake parameters: torch's own would swap their insides, and may not."""
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
