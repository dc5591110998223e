"""Master weights in less than four bytes, beside the copy that computes in half precision.

split: a master weight is the bf16 weight that computes, which is the nearest one, and the 16 bits that this lacks. What
the optimizer updates is fp32, bit for bit as if the master weights were kept whole.

none: only the half precision that computes is kept. Updates are far smaller than what it can hold, so an updated weight
is rounded up or down at random, with the probabilities that make its expected value the exact one (Gupta et al. 2015,
arXiv 1502.02551; for fine-tuning in bf16 Zamirai et al. 2020, arXiv 2010.06192).

In both, fp32 weights exist only while they are updated, a part at a time, or read. So do fp32 gradients in a step of
one micro-batch: until then a gradient stays in the precision in which it was computed. Sums of several are fp32. Whole
master weights may keep their gradients so, too (``keep_half_gradients``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from engine.nets.compiled_adamw import CompiledAdamW
from engine.nets.master_weights import MasterWeightSync

AT_ONCE = 2**25
"""Weights that are in fp32 together while they are updated (128 MiB)."""
LOW_BITS = {torch.bfloat16: 16, torch.float16: 13}  # bits of fp32 that the type lacks, for its normal numbers
SMALLEST_NORMAL, SPACING_BELOW = 2.0**-14, 2.0**-24  # of fp16, whose smaller numbers are evenly spaced


def split(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest bf16 of fp32 weights (a tie away from zero), and what is missing, int16. ``join`` is the inverse."""
    bits = weights.flatten().view(torch.int32)
    upper = (bits + 0x8000).view(torch.int16)[1::2].contiguous()  # every computer with a card is little-endian
    return upper.view(torch.bfloat16).view(weights.shape), bits.to(torch.int16).view(weights.shape)


def join(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """The fp32 weights whose halves these are, bit for bit."""
    bits = high.contiguous().view(torch.int16).to(torch.int32)
    return bits.bitwise_left_shift_(16).add_(low).view(torch.float32)


def round_stochastically(weights: torch.Tensor, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """fp32 weights in half precision: one of the two neighbours of each, whose expected value is the weight.

    A weight that ``dtype`` can hold stays as it is.
    """
    low = LOW_BITS[dtype]
    weights = weights.contiguous()
    draws = torch.empty(weights.shape, dtype=torch.int32, device=weights.device).random_(0, 2**low, generator=generator)
    rounded = (weights.view(torch.int32) + draws).bitwise_and_(-(2**low)).view(torch.float32)
    if dtype == torch.float16:  # rounding to the nearest, after a shift by up to half of the spacing
        shifted = weights + ((draws + 0.5) / 2**low - 0.5) * SPACING_BELOW
        rounded = torch.where(weights.abs() < SMALLEST_NORMAL, shifted, rounded)
    return rounded.to(dtype)


def generator_of(place: tuple[int, int], device: torch.device) -> torch.Generator:
    """Random numbers of a step and a parameter, the same whenever they are drawn."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=7).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))


def _in_fp32(tensor: torch.Tensor | None) -> torch.Tensor:
    """A weight or gradient of the copy, which may be channels last, as the master weights are."""
    assert tensor is not None
    return tensor.to(torch.float32, memory_format=torch.contiguous_format)


class CompactMasterWeights(MasterWeightSync):
    """Keeps no whole fp32 weights from ``refresh`` on ("split" and "none"): the master has placeholders then.

    A placeholder has the shape of its weight and NaN everywhere, and cannot be written to. Gradients go to it as usual.
    """

    def __init__(self, master: Any, dtype: torch.dtype, kind: str, compute: Any | None = None) -> None:
        """
        Args:
            dtype: what to compute in, bf16 (or fp16, except for "split").
            kind: "split", "none", or "whole": as ``MasterWeightSync`` does, until ``keep_half_gradients`` or
                ``keep_split``.
            compute: a copy in ``dtype`` that is there already.
        """
        self._kind, self._dtype = kind, dtype
        self._gradients_stay = [kind != "whole"]  # shared with the hooks, which hold no reference to this object
        self._low: dict[nn.Parameter, torch.Tensor | None] = {}  # of the placeholders
        self._factor = 1.0  # which gradients in half precision have to be multiplied by
        self._one_pass: CompiledAdamW | None = None
        super().__init__(master, dtype, compute=compute)

    @property
    def can_split(self) -> bool:
        return self._kind == "whole" and self._dtype == torch.bfloat16

    def keep_split(self) -> None:
        self._kind, self._gradients_stay[0] = "split", True
        self.refresh()

    def keep_half_gradients(self) -> None:
        self._gradients_stay[0] = True

    @property
    def keeps_half_gradients(self) -> bool:
        return self._gradients_stay[0]

    def use_compiled_adamw(self, with_: CompiledAdamW | None) -> None:
        self._one_pass = with_

    @property
    def updated_at_once(self) -> bool:
        return self._kind == "whole"

    @property
    def low_bits(self) -> list[torch.Tensor]:
        """The low halves of the master weights, kept beside the compute copy."""
        return [low for low in self._low.values() if low is not None]

    @torch.no_grad()
    def refresh(self) -> None:
        """Store the master weights that are whole: at the start, and those that an update has left so."""
        if self._kind == "whole":
            super().refresh()
        for copy, master in self.master_of.items():
            if self._kind != "whole" and master not in self._low:
                self._store(copy, master)
        self.stale = False

    def _gradient_hook(self, master: nn.Parameter) -> Callable[[torch.Tensor], None]:
        usual, stay = super()._gradient_hook(master), self._gradients_stay
        return lambda copy: None if stay[0] and master.grad is None else usual(copy)

    @torch.no_grad()
    def widen_gradients(self) -> None:
        for copy, master in self.master_of.items():
            if copy.grad is not None:
                master.grad, copy.grad = _in_fp32(copy.grad), None

    @torch.no_grad()
    def gradient_norm(self, parameters: list[nn.Parameter]) -> torch.Tensor:
        norms = torch._foreach_norm(self.gradients(list(self.master_of.values())), 2, dtype=torch.float32)
        return torch.linalg.vector_norm(torch.stack(norms))

    def multiply_gradients(self, parameters: list[nn.Parameter], factor: float) -> None:
        super().multiply_gradients(parameters, factor)
        self._factor = factor

    def gradients(self, masters: list[nn.Parameter]) -> list[torch.Tensor]:
        copies = {master: copy for copy, master in self.master_of.items()}
        found = [copies[one].grad if one.grad is None and one in copies else one.grad for one in masters]
        return [gradient for gradient in found if gradient is not None]

    def leave_out(self, masters: Iterable[nn.Parameter]) -> None:
        copies = {master: copy for copy, master in self.master_of.items()}
        for master in masters:
            master.grad = copies[master].grad = None

    @torch.no_grad()
    def update(self, step: Callable[[], object], number: int) -> None:
        if self._one_pass and self._kind == "whole" and all(one.grad is None for one in self.master_of.values()):
            self._sent.update(self._one_pass(self.master_of, self._factor))
        if self._kind == "whole" and all(copy.grad is None for copy in self.master_of):
            step()  # of what has fp32 gradients
            self._factor = 1.0
            return
        summed = {master: master.grad for master in self.master_of.values() if master.grad is not None}
        for master in summed:
            master.grad = None
        try:
            for part in self._parts(self._factor, summed):
                for copy, master, _, gradient in part:
                    self._restore(copy, master)
                    master.grad = gradient
                step()
                for copy, master, index, _ in part:
                    if self._kind != "whole":
                        self._store(copy, master, (number, index))
                    master.grad = copy.grad = None
                    summed.pop(master, None)
                part.clear()  # its memory, before the next part is made
        finally:
            self._factor = 1.0
            for master, gradient in summed.items():  # where memory ran out; usually there are none left
                master.grad = gradient

    def _parts(
        self, factor: float, summed: Mapping[nn.Parameter, torch.Tensor]
    ) -> Iterator[list[tuple[nn.Parameter, nn.Parameter, int, torch.Tensor]]]:
        """Copy, master, number and fp32 gradient of up to AT_ONCE weights, at least one parameter.

        Args:
            factor: for gradients that are still in half precision.
            summed: gradients that are fp32 already.
        """
        part: list[tuple[nn.Parameter, nn.Parameter, int]] = []
        size = 0
        for index, (copy, master) in enumerate(self.master_of.items()):
            if copy.grad is None and master not in summed:
                continue
            if part and size + master.numel() > AT_ONCE:
                yield self._with_gradients(part, factor, summed)
                part, size = [], 0
            part.append((copy, master, index))
            size += master.numel()
        if part:
            yield self._with_gradients(part, factor, summed)

    def _with_gradients(
        self,
        part: list[tuple[nn.Parameter, nn.Parameter, int]],
        factor: float,
        summed: Mapping[nn.Parameter, torch.Tensor],
    ) -> list[tuple[nn.Parameter, nn.Parameter, int, torch.Tensor]]:
        half = {master: copy.grad for copy, master, _ in part if master not in summed and copy.grad is not None}
        wide = {master: torch.empty(master.shape, device=copy.device) for copy, master, _ in part if master in half}
        if half:
            torch._foreach_copy_(list(wide.values()), list(half.values()))
            if factor != 1:
                torch._foreach_mul_(list(wide.values()), factor)
        return [(copy, master, index, (summed if master in summed else wide)[master]) for copy, master, index in part]

    @contextmanager
    def whole_weights(self, changed: bool = False) -> Iterator[None]:
        stored = dict(self._low)
        try:
            with torch.no_grad():
                for copy, master in self.master_of.items():
                    self._restore(copy, master)
                    if not changed and master in stored:
                        master.data = master.data.cpu()  # a card need not have room for all of them
            yield
        finally:
            for copy, master in self.master_of.items():
                if master in stored and master not in self._low:
                    if changed:
                        self._store(copy, master)
                    else:
                        self._put_away(copy, master, stored[master])

    @torch.no_grad()
    def read(self, masters: list[nn.Parameter]) -> list[torch.Tensor]:
        copies = {master: copy for copy, master in self.master_of.items()}
        return [self._whole(copies[one], one) if one in self._low else one.detach() for one in masters]

    @contextmanager
    def computing_weights(self, of: list[nn.Parameter], tensors: list[torch.Tensor]) -> Iterator[Any]:
        if self._kind == "whole":
            with super().computing_weights(of, tensors) as net:
                yield net
            return
        copies = {master: copy for copy, master in self.master_of.items()}
        own = {copies[master]: copies[master].data for master in of}  # there is no other copy of these bits
        try:
            for master, tensor in zip(of, tensors, strict=True):
                copies[master].data = tensor.to(own[copies[master]])
            yield self.compute
        finally:
            for copy, data in own.items():
                copy.data = data

    @torch.no_grad()
    def keep_whole(self, device: torch.device) -> None:
        for copy, master in self.master_of.items():
            self._restore(copy, master)
            master.data = master.data.to(device)
        self._kind, self._gradients_stay[0] = "whole", False
        self._dtype = torch.float32  # weights in RAM cannot be split

    @torch.no_grad()
    def _store(self, copy: nn.Parameter, master: nn.Parameter, place: tuple[int, int] | None = None) -> None:
        """Write a whole weight into its copy, and forget it.

        Args:
            place: step and number of the parameter, which its random numbers come from; None: rounds to the nearest.
        """
        high, low = master.data, None
        if self._kind == "split":
            high, low = split(master.data)
        elif place is not None:
            high = round_stochastically(master.data, copy.dtype, generator_of(place, master.device))
        copy.data.copy_(high)
        self._put_away(copy, master, low)

    def _restore(self, copy: nn.Parameter, master: nn.Parameter) -> None:
        """Make a master weight whole, if it is not."""
        if master in self._low:
            master.data = self._whole(copy, master)
            del self._low[master]

    def _whole(self, copy: nn.Parameter, master: nn.Parameter) -> torch.Tensor:
        low = self._low[master]
        return _in_fp32(copy.data) if low is None else join(copy.data, low)

    def _put_away(self, copy: nn.Parameter, master: nn.Parameter, low: torch.Tensor | None) -> None:
        self._low[master] = low
        master.data = torch.full((), torch.nan, device=copy.device).expand(master.shape)
