"""The captions of a run in which words or text encoders are trained: token numbers, encoded anew in each step.

They are kept in memory: a caption takes 600 bytes, and reading ten thousand of them two seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from engine.families.base import Family
from engine.families.text import USUAL_TEXT, TextOptions, chunks_to_read
from engine.jobs.control import CancelToken

AT_ONCE = 256


class TokenCache:
    """Reads token numbers by caption, as ``TextCache`` reads embeddings."""

    note = ""
    """About long captions, for the run's log."""

    def __init__(
        self,
        family: Family,
        tokenizer: Any,
        captions: Sequence[str],
        options: TextOptions = USUAL_TEXT,
        token: CancelToken | None = None,
    ) -> None:
        """
        Args:
            tokenizer: with the new word, if one is learned.
            captions: without repetitions, the empty one among them.

        Raises:
            Cancelled: the token was cancelled.
        """
        needed = dict.fromkeys(captions, 1)
        self._numbers: dict[str, dict[str, torch.Tensor]] = {}
        for first in range(0, len(captions), AT_ONCE):
            if token is not None:
                token.raise_if_cancelled()
            some = captions[first : first + AT_ONCE]
            if options.whole:
                needed |= dict(zip(some, family.chunk_counts(tokenizer, some), strict=True))
        chunks = chunks_to_read(needed, captions)
        self._longest = max(chunks.values(), default=1)
        for count in sorted(set(chunks.values())):
            alike = [caption for caption in captions if chunks[caption] == count]
            for first in range(0, len(alike), AT_ONCE):
                if token is not None:
                    token.raise_if_cancelled()
                some = alike[first : first + AT_ONCE]
                numbers = family.token_numbers(tokenizer, some, count)
                for row, caption in enumerate(some):
                    self._numbers[caption] = {name: rows[row : row + 1].clone() for name, rows in numbers.items()}

    def read(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token numbers (B, chunks, length), all as long as the longest caption of the run (see ``chunks_to_read``).

        Raises:
            KeyError: one of the captions is not among them.
        """
        rows = [self._numbers[caption] for caption in captions]
        return {
            name: torch.cat([row[name].repeat(1, self._longest // row[name].shape[1], 1) for row in rows])
            for name in rows[0]
        }

    def read_one(self, caption: str) -> dict[str, torch.Tensor]:
        """The token numbers of a caption, (1, chunks, length), not repeated.

        Raises:
            KeyError: it is not among them.
        """
        return self._numbers[caption]
