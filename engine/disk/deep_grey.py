"""Grey with more than 8 bits: how it is brought to 0..255, and the words for it."""

from __future__ import annotations

import numpy as np
from PIL import Image

_KEPT = "values up to 255, which stay as they are"
_LARGEST = "each stretched so that its largest value becomes 255"


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey of 16 bits, 32 bits or floats."""
    return image.mode.startswith("I") or image.mode == "F"


def to_bytes(image: Image.Image, is_map: bool) -> Image.Image:
    """Deep grey as 8-bit grey by ``rule``: NaN and infinite values count as 0, others are clipped to 0..255."""
    values = _values(image)
    scaled = np.round(values * rule(values, image.mode == "F", is_map)[0])
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))


def depth_in(image: Image.Image, is_map: bool) -> str:
    """What deep grey is, and how it becomes 8 bits, such as "in 16 bits, divided by 257". "": it has no more."""
    if not is_deep(image):
        return ""
    kind = "of floats" if image.mode == "F" else "in 16 bits" if image.mode.startswith("I;16") else "in 32 bits"
    return f"{kind}, {rule(_values(image), image.mode == 'F', is_map)[1]}"


def rule(values: np.ndarray, floats: bool, stretch: bool) -> tuple[float, str]:
    """The factor that brings grey values to 0..255, and the words for it.

    - Integers up to 255 stay, as labels do; others are divided by 257.
    - Floats up to 1 are multiplied by 255; others count as 0..255.
    - ``stretch``: values in real units, which would come out almost black or white (integers that use less than half
      of 16 bits, floats that are no whole numbers up to 255), are scaled so that the largest becomes 255. So are
      integers of more than 16 bits.
    """
    top = float(values.max(initial=0.0))
    if floats:
        if 0 < top <= 1:
            return 255.0, "multiplied by 255 since they are at most 1"
        in_units = top > 255 or not np.array_equal(values, np.round(values))
        return (255 / top, _LARGEST) if stretch and top > 1 and in_units else (1.0, _KEPT)
    if top <= 255:
        return 1.0, _KEPT
    if top > 65_535 or (stretch and top <= 32_767):
        return 255 / top, _LARGEST
    return 1 / 257, "divided by 257 (65,535 becomes 255)"


def _values(image: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
