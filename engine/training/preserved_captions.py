"""Captions of what a run's base should not forget. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.config import RunConfig


def preserved_captions(config: RunConfig, captions: Sequence[str]) -> tuple[str, ...]:
    """The class prompts; without any, the captions of the training images without the run's word.

    Returns:
        No captions where nothing is preserved.
    """
    tuning = config.tuning
    if tuning.preserved_by == "none":
        return ()
    return tuning.class_prompts or tuple(dict.fromkeys(without_word(caption, tuning.word) for caption in captions))


def without_word(caption: str, word: str) -> str:
    """A caption without a word, and without the comma or blank that it leaves behind."""
    rest = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", " ", caption, flags=re.IGNORECASE) if word else caption
    rest = re.sub(r"\s*,(?:\s*,)*", ",", rest)
    return re.sub(r"\s+", " ", rest).strip(" ,")
