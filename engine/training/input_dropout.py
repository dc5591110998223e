"""Leaves out the control image, or the text of one encoder, of a share of the images, drawn from (seed, position).

Prompt dropout, which replaces the whole caption, is in batches.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.families.text_encoding import Text
from engine.training.randomness import generator_at


@dataclass(frozen=True)
class InputDropout:
    """What a batch leaves out. Its random numbers are apart from those of ``batches.draw``, which stay as they are."""

    seed: int
    control: float
    """Share of control images that become zeros, 0..1: where the net reads latents, zero latents."""
    optional_text: float
    """Share of captions without the text of the encoder that is optional in a base, 0..1."""
    without_optional_text: Callable[[Text, torch.Tensor], dict[str, torch.Tensor]]
    """``Family.without_optional_text``."""
    captions: float = 0.0
    """Share of captions that the control net does not read, 0..1."""
    hidden_from_net: Callable[[Text, torch.Tensor], dict[str, torch.Tensor]] = lambda text, rows: dict(text)
    """``Family.hidden_from_net``."""

    def drawn(self, first: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For images ``first`` to ``first + batch`` of the stream, whether control, optional text, and the caption for
        the net are left out: (B,) bool each.

        They depend on the image's position alone, as those of ``batches.draw`` do.
        """
        shares = torch.tensor([self.control, self.optional_text, self.captions])
        rows = []
        for position in range(first, first + batch):
            generator = generator_at(self.seed, position, "inputs")
            # In two calls, so that the first two are as before there was a third.
            drawn = torch.cat([torch.rand(2, generator=generator), torch.rand(1, generator=generator)])
            rows.append(drawn < shares)
        left_out = torch.stack(rows)
        return left_out[:, 0], left_out[:, 1], left_out[:, 2]

    def __call__(
        self, first: int, text: dict[str, torch.Tensor], maps: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """The text and control images of a batch that begins at ``first``, with what is left out as zeros.

        Args:
            text: encoded captions, B rows each.
            maps: (B, ...) as ``Batch.maps``; None: the run has none.
        """
        if not self.control and not self.optional_text and not self.captions:
            return text, maps
        no_control, no_text, hidden = self.drawn(first, len(next(iter(text.values()))))
        if maps is not None:
            maps = maps.clone()
            maps[no_control] = 0
        text = self.without_optional_text(text, no_text)
        return self.hidden_from_net(text, hidden) if self.captions else text, maps


NOTHING_LEFT_OUT = InputDropout(0, 0.0, 0.0, lambda text, rows: dict(text))
