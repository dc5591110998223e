"""Ink strokes of even width, as in animated films."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import fit, ms_ssim

ANIME_LINEART = ConditionType(
    name="anime_lineart",
    title="Anime line art",
    teaches="Ink drawing: clean strokes of even width and solid shadows, which the image fills with colour.",
    parameters=(
        Parameter("width", "Stroke width", "float", 1.2, 0.5, 6.0, 0.1, hint="Pixels.", vary=(0.8, 2.0), thickens=True),
        Parameter(
            "ink", "Amount of ink", "float", 0.55, 0.3, 0.95, 0.01, hint="Higher also fills dark areas.",
            vary=(0.45, 0.65)
        ),
        Parameter(
            "sharpness", "Emphasis of lines", "float", 20.0, 2.0, 60.0, 1.0, hint="Higher draws fainter contours too.",
            vary=(14.0, 28.0),
        ),
        Parameter("hardness", "Hard strokes", "float", 0.6, 0.05, 1.0, 0.05, hint="Lower leaves soft pencil tones."),
    ),
    extract="engine.conditions.types.anime_lineart:anime_lineart",
    metric="engine.conditions.types.anime_lineart:anime_lineart_adherence",
)  # fmt: skip
_SPREAD = 1.6  # ratio of the two Gaussians, see lineart.py
_TONES = 12.0  # steepness of tanh between paper and ink at hardness 1


def anime_lineart(image: np.ndarray, *, width: float, ink: float, sharpness: float, hardness: float) -> np.ndarray:
    """White ink on black (XDoG, Winnemoeller et al. 2012). RGB uint8 (h, w, 3) in and out.

    With G the brightness (0..1) after a Gaussian: S = (1 + p) G(width) - p G(1.6 width). Paper where S >= ink, else
    1 + tanh(phi (S - ink)). Without trained weights, everything dark becomes ink, including shadows.
    """
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    near, far = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (width, width * _SPREAD))
    sharpened = near + sharpness * (near - far)
    light = _light_around(grey)  # ink is relative to the brightness of its surroundings
    ink_below = ink * light
    made = np.clip(-np.tanh(_TONES * hardness * (sharpened - ink_below)), 0, 1)
    return cv2.cvtColor(np.round(made * 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)


def _light_around(grey: np.ndarray) -> np.ndarray:
    """Brightness after a Gaussian of 1/8 of the longer side, computed on a small copy: a live preview must be fast."""
    import cv2

    times = max(1, max(grey.shape) // 64)
    size = (max(1, grey.shape[1] // times), max(1, grey.shape[0] // times))
    small = cv2.GaussianBlur(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), (0, 0), max(size) / 8)
    return cv2.resize(small, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)


def anime_lineart_adherence(
    wanted: np.ndarray, got_image: np.ndarray, *, width: float, ink: float, sharpness: float, hardness: float
) -> float:
    """MS-SSIM between the drawn image's ink and the map. 1 is perfect."""
    drawn = fit(got_image, wanted.shape[:2])
    got = anime_lineart(drawn, width=width, ink=ink, sharpness=sharpness, hardness=hardness)
    return ms_ssim(wanted[..., 0], got[..., 0])
