"""Does an image look like the maps that a net was trained on? A few plain figures of both are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image

SIDE = 128
DARK, BRIGHT = 32, 223
SLACK = 0.5
"""How far beyond the maps' own range is still like them, in widths of that range."""


@dataclass(frozen=True)
class Look:
    """Figures of one image, all 0..1."""

    black: float
    """Share of nearly black pixels."""
    white: float
    """Share of nearly white pixels."""
    mean: float
    """Mean brightness."""
    colour: float
    """Mean distance between a pixel's strongest and weakest channel."""
    variety: float
    """Number of different colours on a logarithmic scale: 0 is one, 1 is 4,096 (all there are at four bits)."""
    detail: float
    """Mean difference between neighbours."""


LEAST = Look(black=0.2, white=0.2, mean=0.15, colour=0.08, variety=0.3, detail=0.06)
"""Differences that are small whatever the maps' range is."""
WORDS = {
    "black": ("more black", "less black"),
    "white": ("more white", "less white"),
    "mean": ("brighter", "darker"),
    "colour": ("more colourful", "less colourful"),
    "variety": ("many more different tones", "far fewer different tones"),
    "detail": ("busier", "smoother"),
}


def look_at(image: Image.Image | np.ndarray) -> Look:
    """The figures of an image of any size."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture = picture.convert("RGB")
    shrink = max(1.0, max(picture.size) / SIDE)
    # Nearest neighbour: a mean of black and white would be a tone that is not there.
    small = picture.resize((max(1, round(picture.width / shrink)), max(1, round(picture.height / shrink))), 0)
    pixels = np.asarray(small).astype(int)
    bits = pixels >> 4
    colours = len(np.unique(bits[..., 0] * 256 + bits[..., 1] * 16 + bits[..., 2]))
    grey = pixels.mean(axis=2)
    steps = [np.abs(np.diff(grey, axis=axis)) for axis in (0, 1)]
    return Look(
        black=float((pixels.max(axis=2) < DARK).mean()),
        white=float((pixels.min(axis=2) > BRIGHT).mean()),
        mean=float(grey.mean() / 255),
        colour=float((pixels.max(axis=2) - pixels.min(axis=2)).mean() / 255),
        variety=float(np.log2(colours) / 12),
        detail=float(np.mean([step.mean() if step.size else 0.0 for step in steps]) / 255),
    )


def differences(found: Look, trained: Sequence[Look]) -> list[str]:
    """In words, what is outside of what the maps have; empty where it looks like one of them, or there are none."""
    if not trained:
        return []
    words = []
    for name in (field.name for field in fields(Look)):
        values = [getattr(one, name) for one in trained]
        low, high, value = min(values), max(values), getattr(found, name)
        slack = max(getattr(LEAST, name), SLACK * (high - low))
        if value > high + slack:
            words.append(WORDS[name][0])
        elif value < low - slack:
            words.append(WORDS[name][1])
    return words


def warning(image: Image.Image, trained: Sequence[Look]) -> str:
    """A sentence for people where an image is not like the maps; empty where it is."""
    words = differences(look_at(image), trained)
    if not words:
        return ""
    said = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    sentence = f"This does not look like the maps that the net was trained on: it is {said}."
    inverted = Image.fromarray(255 - np.asarray(image.convert("RGB")))
    if not differences(look_at(inverted), trained):
        return f"{sentence} Black and white seem to be swapped: invert the image."
    return f"{sentence} If it is an ordinary image, let its map be made instead of giving it as one."
