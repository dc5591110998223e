"""Gradients and weights on their way between a card and RAM, while the card computes (``optim.offload``).

Each tensor passes through pinned memory. Gradients are copied on a stream of their own, beside the rest of the backward
pass, and accumulated in RAM as they arrive, in the order in which they were sent (as in Ren et al. 2021,
"ZeRO-Offload", arXiv 2101.06840). The weights and gradients have the bits that they would have one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from engine.machine.capabilities import capabilities
from engine.machine.device import copy_stream, current_stream, is_card, on_stream

MOST_WAITING = 2**27
"""Bytes that are under way at most (or one tensor), so that neither the card nor pinned memory fills up with them."""


@dataclass(frozen=True)
class Copy:
    """A copy that is under way."""

    tensor: torch.Tensor
    """What it is copied to: not to be read before ``wait`` returns."""
    arrived: Callable[[], bool]
    wait: Callable[[], None]


class Copier(Protocol):
    """Starts copies, in the order in which it is asked for them."""

    def to_ram(self, gradient: torch.Tensor) -> Copy:
        """A gradient, complete as far as the present stream of the card is concerned, to pinned memory."""

    def to_card(self, weight: torch.Tensor, copy: torch.Tensor) -> Copy:
        """A weight in RAM to its copy on the card, rounded in RAM. What the card is asked to do next waits for it."""


class CardCopier:
    """Copies between RAM and a card that can copy beside its computation."""

    def __init__(self, device: torch.device) -> None:
        self._stream = copy_stream(device)

    def to_ram(self, gradient: torch.Tensor) -> Copy:
        pinned = torch.empty(gradient.shape, dtype=gradient.dtype, pin_memory=True)
        self._stream.wait_stream(current_stream(gradient.device))
        with on_stream(self._stream):
            pinned.copy_(gradient, non_blocking=True)
            event = self._stream.record_event()
        gradient.record_stream(self._stream)  # its memory is not used again before it was read
        return Copy(pinned, event.query, event.synchronize)

    def to_card(self, weight: torch.Tensor, copy: torch.Tensor) -> Copy:
        pinned = torch.empty(weight.shape, dtype=copy.dtype, pin_memory=True).copy_(weight)
        copy.copy_(pinned, non_blocking=True)
        event = current_stream(copy.device).record_event()
        return Copy(pinned, event.query, event.synchronize)


def _can_overlap(copy: torch.Tensor, master: torch.Tensor) -> bool:
    return capabilities(copy.device.type).copy_streams and not is_card(master.device)


class Offload:
    """Copies that are under way, the oldest first."""

    def __init__(self, copier: Copier | None = None) -> None:
        """
        Args:
            copier: None: copies wait for each other, until the weights of a card that can copy beside its
                computation turn out to be in RAM.
        """
        self.copier = copier
        self._may_overlap = True
        self._waiting: deque[tuple[Copy, Callable[[torch.Tensor], None]]] = deque()
        self._bytes = 0

    def wait_for_each(self) -> None:
        """From now on copies wait for each other: gradients are read before ``finish``."""
        self._may_overlap = False

    def overlaps(self, copy: torch.Tensor, master: torch.Tensor) -> bool:
        """Whether copies between these two go through here."""
        if self.copier is None and self._may_overlap and _can_overlap(copy, master):
            self.copier = CardCopier(copy.device)
        return self.copier is not None

    @property
    def in_use(self) -> bool:
        """Something has gone through here."""
        return self.copier is not None

    def send_gradient(self, gradient: torch.Tensor, accumulate: Callable[[torch.Tensor], None]) -> None:
        """Copy a gradient to RAM; ``accumulate`` is called with it there, by ``finish`` at the latest."""
        assert self.copier is not None
        self._add(self.copier.to_ram(gradient), accumulate)

    def send_weight(self, weight: torch.Tensor, copy: torch.Tensor) -> None:
        """Copy a weight to the card. It is read at once, so it may change afterwards."""
        assert self.copier is not None
        self._add(self.copier.to_card(weight, copy), lambda arrived: None)

    def afterwards(self, action: Callable[[], object]) -> None:
        """Call this when everything that was sent before has arrived: at once, if nothing is under way."""
        if not self._waiting:
            action()
            return
        copy, then = self._waiting.pop()

        def both(arrived: torch.Tensor) -> None:
            then(arrived)
            action()

        self._waiting.append((copy, both))

    def finish(self) -> None:
        """Wait for all copies."""
        while self._waiting:
            self._take()

    def drop(self) -> None:
        """Forget the copies that are under way."""
        self._waiting.clear()
        self._bytes = 0

    def _add(self, copy: Copy, then: Callable[[torch.Tensor], None]) -> None:
        self._waiting.append((copy, then))
        self._bytes += copy.tensor.nbytes
        while self._waiting and (self._waiting[0][0].arrived() or (self._bytes > MOST_WAITING and self._several)):
            self._take()

    @property
    def _several(self) -> bool:
        return len(self._waiting) > 1

    def _take(self) -> None:
        copy, then = self._waiting.popleft()
        self._bytes -= copy.tensor.nbytes
        copy.wait()
        then(copy.tensor)
