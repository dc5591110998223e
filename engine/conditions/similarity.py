"""Does an image look like the condition maps that a net was trained on? Compares a few simple statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image

SIDE = 128
DARK, BRIGHT = 32, 223
SLACK = 0.5
"""Tolerance beyond the range of the maps' values, as a fraction of that range."""


@dataclass(frozen=True)
class MapStatistics:
    """Statistics of one image, all from 0 to 1."""

    black: float
    """Fraction of nearly black pixels."""
    white: float
    """Fraction of nearly white pixels."""
    mean: float
    """Mean brightness."""
    colour: float
    """Mean difference between a pixel's largest and smallest channel."""
    variety: float
    """Number of different colours on a logarithmic scale. 0: one colour, 1: 4,096, which is all there are at 4 bits."""
    detail: float
    """Mean difference between neighbouring pixels."""


MIN_TOLERANCE = MapStatistics(black=0.2, white=0.2, mean=0.15, colour=0.08, variety=0.3, detail=0.06)
"""Least tolerance of each value, for maps that are all alike."""
DESCRIPTIONS = {
    "black": ("more black", "less black"),
    "white": ("more white", "less white"),
    "mean": ("brighter", "darker"),
    "colour": ("more colourful", "less colourful"),
    "variety": ("many more different tones", "far fewer different tones"),
    "detail": ("busier", "smoother"),
}


def statistics_of(image: Image.Image | np.ndarray) -> MapStatistics:
    """The statistics of an image of any size."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image = image.convert("RGB")
    shrink = max(1.0, max(image.size) / SIDE)
    # Nearest neighbour: averaging black and white would create a tone that the image does not have.
    small = image.resize((max(1, round(image.width / shrink)), max(1, round(image.height / shrink))), 0)
    pixels = np.asarray(small).astype(int)
    bits = pixels >> 4
    colours = len(np.unique(bits[..., 0] * 256 + bits[..., 1] * 16 + bits[..., 2]))
    grey = pixels.mean(axis=2)
    steps = [np.abs(np.diff(grey, axis=axis)) for axis in (0, 1)]
    return MapStatistics(
        black=float((pixels.max(axis=2) < DARK).mean()),
        white=float((pixels.min(axis=2) > BRIGHT).mean()),
        mean=float(grey.mean() / 255),
        colour=float((pixels.max(axis=2) - pixels.min(axis=2)).mean() / 255),
        variety=float(np.log2(colours) / 12),
        detail=float(np.mean([step.mean() if step.size else 0.0 for step in steps]) / 255),
    )


def differences(found: MapStatistics, trained: Sequence[MapStatistics]) -> list[str]:
    """Describes the statistics that are outside the range of the maps. Empty if there are none, or no maps."""
    if not trained:
        return []
    found_differences = []
    for name in (field.name for field in fields(MapStatistics)):
        values = [getattr(one, name) for one in trained]
        low, high, value = min(values), max(values), getattr(found, name)
        tolerance = max(getattr(MIN_TOLERANCE, name), SLACK * (high - low))
        if value > high + tolerance:
            found_differences.append(DESCRIPTIONS[name][0])
        elif value < low - tolerance:
            found_differences.append(DESCRIPTIONS[name][1])
    return found_differences


def warning(image: Image.Image, trained: Sequence[MapStatistics]) -> str:
    """A warning for the user if an image does not look like the maps. Empty if it does."""
    found = differences(statistics_of(image), trained)
    if not found:
        return ""
    listed = found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"
    sentence = f"This does not look like the control images that the net was trained on: it is {listed}."
    inverted = Image.fromarray(255 - np.asarray(image.convert("RGB")))
    if not differences(statistics_of(inverted), trained):
        return f"{sentence} Black and white seem to be swapped: invert the image."
    return f"{sentence} If it is an ordinary image, let the app make its control image instead."
