"""How much a condition map shows, and whether a net can learn anything from it."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

NEARLY_EMPTY = 0.005  # the Canny map of a photograph has 0.05 to 0.15
NEARLY_FULL = 0.9
FEW_LEVELS = 3  # maps of lines and areas have no more; maps such as depth fill the image anyway


class Coverage(TypedDict):
    share: float
    """Fraction of pixels that are not black, 0 to 1."""
    levels: int
    """Number of different grey values."""
    warning: str
    """A sentence for the page. Empty if the map looks good."""


def coverage(map: np.ndarray) -> Coverage:
    """Measures a map, RGB uint8 (h, w, 3) or grey (h, w)."""
    import cv2

    if map.ndim == 3:
        red, green, blue = cv2.split(map)
        grey = cv2.max(cv2.max(red, green), blue)
    else:
        grey = np.ascontiguousarray(map)
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()
    share, levels = 1 - float(counts[0]) / grey.size, int((counts > 0).sum())
    warning = ""
    if share < NEARLY_EMPTY:
        warning = "The map is nearly empty: there is hardly anything for the net to follow. Try lower thresholds."
    elif levels == 1:
        warning = "The map has the same value everywhere: there is nothing for the net to follow."
    elif share > NEARLY_FULL and levels <= FEW_LEVELS:
        warning = "The map is nearly full: individual lines and areas can no longer be seen. Try higher thresholds."
    return {"share": share, "levels": levels, "warning": warning}
