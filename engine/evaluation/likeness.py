"""Stand-in for maps that nothing can make anew from an image: do the contours lie where the true image has them?

A net that obeys its map draws the things of the true image at their places, whatever their colours; one that does
not has only the prompt to go by. It is less than a measure of the map itself, and every page that shows it says so.
"""

from __future__ import annotations

import numpy as np

SCALE = 1 / 64
"""Standard deviation of the blur, as a share of the shorter side: contours this far apart still count as near."""


def contours(image: np.ndarray) -> np.ndarray:
    """Blurred square root of the colour gradient of RGB uint8 (h, w, 3), float32 (h, w); the strongest channel counts.

    The root keeps single strong edges from deciding alone.
    """
    import cv2

    values = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
    across, down = cv2.Sobel(values, cv2.CV_32F, 1, 0), cv2.Sobel(values, cv2.CV_32F, 0, 1)
    steep = np.sqrt(np.hypot(across, down).max(axis=2))
    return cv2.GaussianBlur(steep, (0, 0), max(1.0, SCALE * min(image.shape[:2])))


def likeness(original: np.ndarray, drawn: np.ndarray) -> float:
    """Pearson's r of the contours of two images, RGB uint8; 1 where they lie alike, about 0 by chance."""
    from engine.conditions.metrics import correlation, fit

    return correlation(contours(original), contours(fit(drawn, original.shape[:2])))
