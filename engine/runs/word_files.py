"""Where a checkpoint of a run that trains a new word keeps it. No torch."""

from __future__ import annotations

from pathlib import Path

WORD, AVERAGED_WORD = "word", "word_ema"
"""Folders in a checkpoint: one file each, fp32, which is called like the word, so that it can be used as it is."""


def word_file(checkpoint: Path, average: bool = False) -> Path:
    """The file with the new word of a checkpoint; a path of no file if it has none."""
    inside = checkpoint / (AVERAGED_WORD if average else WORD)
    return next(iter(sorted(inside.glob("*.safetensors"))), inside / "word.safetensors")
