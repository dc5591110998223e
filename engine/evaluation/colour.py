"""Saturation, contrast and colour distance of drawn images: do colours drift, do seeds differ?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OFFSET = 1.0  # Lab units; added to both parts of a ratio, since a flat grey image has neither saturation nor contrast


def saturation(image: np.ndarray) -> float:
    """Mean chroma in CIE Lab of RGB uint8 (h, w, 3)."""
    lab = _lab(image)
    return float(np.hypot(lab[..., 1], lab[..., 2]).mean())


def contrast(image: np.ndarray) -> float:
    """Standard deviation of CIE lightness of RGB uint8 (h, w, 3)."""
    return float(_lab(image)[..., 0].std())


def drift(drawn: Sequence[np.ndarray], against: Sequence[np.ndarray]) -> dict[str, float]:
    """{"saturation": ..., "contrast": ...}: ratios of the means over the images. 1 is no drift, 1.3 is 30 % more."""
    found = {}
    for name, figure in (("saturation", saturation), ("contrast", contrast)):
        now, then = (float(np.mean([figure(image) for image in images])) for images in (drawn, against))
        found[name] = (now + OFFSET) / (then + OFFSET)
    return found


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance of two images of one size in CIE Lab (delta E 1976). 0: equal, about 40: unrelated."""
    return float(np.linalg.norm(_lab(first) - _lab(second), axis=-1).mean())


def spread(groups: Sequence[Sequence[np.ndarray]]) -> float:
    """Mean ``difference`` between the images in each group: one prompt and map, several seeds. 0: all alike."""
    apart = [difference(group[a], group[b]) for group in groups for a in range(len(group)) for b in range(a)]
    return float(np.mean(apart)) if apart else 0.0


def _lab(image: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
