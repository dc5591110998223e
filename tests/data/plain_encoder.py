"""A family whose text encoder is a formula, and a process that encodes captions with it until it is killed. POSIX only.

python -m tests.data.plain_encoder FOLDER BASE COUNT WHEN
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.data import text_cache
from engine.data.text_cache import encode_missing
from engine.data.text_shards import RunCaptions
from engine.jobs.control import Control

SHARD, BATCH = 8, 4


class PlainEncoder:
    """What the text cache uses of a family. ``encoded`` lists the captions of each call, ``counted`` those counted."""

    def __init__(self) -> None:
        self.encoded: list[list[str]] = []
        self.counted: list[str] = []

    def load_tokenizer(self, base: str) -> None:
        return None

    def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        return torch.nn.Identity()

    def skipped_layers(self, clip_skip: int) -> int:
        return clip_skip - 1

    def chunk_counts(self, tokenizer: Any, captions: Sequence[str]) -> list[int]:
        self.counted += captions
        return [1 + len(caption) // 50 for caption in captions]

    def encode_long(
        self, tokenizer: Any, encoder: Any, captions: Sequence[str], chunks: int, clip_skip: int
    ) -> dict[str, torch.Tensor]:
        self.encoded.append(list(captions))
        rows = torch.tensor([[len(caption), sum(caption.encode()) % 1000 + clip_skip] for caption in captions]).float()
        return {"hidden": rows[:, None].expand(-1, 7 * chunks, -1), "pooled": rows}

    def text_length(self, text: Any) -> int:
        return text["hidden"].shape[-2]

    def repeated_text(self, text: Any, tokens: int) -> dict[str, torch.Tensor]:
        return {**text, "hidden": text["hidden"].repeat(1, tokens // self.text_length(text), 1)}


def captions(count: int) -> list[str]:
    return ["", *(f"caption {number}" for number in range(1, count))]


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, base: str, count: str, when: str) -> None:
    """Encode, and die in the middle of the third shard, or between the two files of it."""
    text_cache.SHARD, text_cache.CAPTIONS_AT_ONCE = SHARD, BATCH
    family: Any = PlainEncoder()
    if when == "between the files":
        real = text_cache.describe
        text_cache.describe = lambda *given: die() if len(family.encoded) > 5 else real(*given)

    def progress(done: int, total: int, label: str) -> None:
        if when == "while encoding" and done > 2 * SHARD:
            die()

    run = RunCaptions(Path(folder), family, base, captions(int(count)))
    encode_missing(run, torch.device("cpu"), Control().token, progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
