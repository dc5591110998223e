"""What a few images look like: drawn, as most condition maps are, or photographed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from engine.disk.images import load_rgb
from engine.errors import UserError

SAMPLES = 4
LEAST_COLOUR = 6
"""Mean difference between the largest and the smallest channel, of 255, below which an image is grey."""
MOST_COLOURS = 48
"""Of a drawn image at 64 x 64 pixels."""
T = TypeVar("T")


def evenly(items: Sequence[T], count: int = SAMPLES) -> list[T]:
    """``count`` of the items at most, evenly spaced."""
    return list(items)[:: max(1, -(-len(items) // count))][:count]


def is_drawn(path: Path) -> bool | None:
    """Whether an image is grey or has few colours. None if it cannot be read."""
    try:
        pixels = np.asarray(load_rgb(path, at_least=64).resize((64, 64), resample=0)).astype(np.int16)
    except UserError:
        return None  # the import reports it
    return has_drawn_pixels(pixels)


def has_drawn_pixels(pixels: np.ndarray) -> bool:
    """Whether pixels, RGB int16 (h, w, 3), are grey or have few colours."""
    grey = float((pixels.max(axis=2) - pixels.min(axis=2)).mean()) < LEAST_COLOUR
    return grey or len(np.unique(pixels.reshape(-1, 3), axis=0)) <= MOST_COLOURS


def mostly_drawn(paths: Sequence[Path]) -> bool:
    """Whether most of a few images, chosen evenly, are grey or have few colours."""
    votes = [vote for path in evenly(paths) if (vote := is_drawn(path)) is not None]
    return bool(votes) and sum(votes) > len(votes) / 2


def looks_like_maps(paths: Sequence[Path], partners: Sequence[Path]) -> bool:
    """Whether a few images look drawn, as condition maps do, and their partners do not."""
    return mostly_drawn(paths) and not mostly_drawn(partners)


def same_aspect_ratios(pairs: Sequence[tuple[Path, Path]]) -> bool:
    """Whether the images of each pair have the same aspect ratio. False if one cannot be read."""
    try:
        return all(_aspect_ratio(one) == _aspect_ratio(other) for one, other in pairs)
    except UserError:
        return False


def _aspect_ratio(path: Path) -> float:
    image = load_rgb(path, at_least=64)
    return round(image.width / image.height, 1)
