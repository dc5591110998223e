"""Soft pen strokes."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import fit, ms_ssim

LINEART = ConditionType(
    name="lineart",
    title="Line art",
    teaches="A drawing: strong or faint strokes mark contours and folds, and the image fills in the rest.",
    parameters=(
        Parameter(
            "width",
            "Stroke width",
            "float",
            1.5,
            0.5,
            8.0,
            0.1,
            hint="Pixels. Wider strokes merge fine texture.",
            thickens=True,
            vary=(1.0, 2.5),
        ),
        Parameter(
            "threshold",
            "Threshold",
            "float",
            2.0,
            0.0,
            20.0,
            0.5,
            hint="Higher removes grain and shading.",
            vary=(1.0, 4.0),
        ),
        Parameter("strength", "Strength", "float", 1.0, 0.2, 4.0, 0.1, hint="Higher makes faint strokes white."),
    ),
    extract="engine.conditions.types.lineart:lineart",
    metric="engine.conditions.types.lineart:lineart_adherence",
)
_SPREAD = 1.6  # ratio of the two Gaussians whose difference is closest to a Laplacian (Marr & Hildreth)
_FAINTEST = 8.0  # least white point, in grey values; below it, grain on a flat wall would become strokes


def lineart(image: np.ndarray, *, width: float, threshold: float, strength: float) -> np.ndarray:
    """White strokes on black where the image is darker than its surroundings (difference of Gaussians).

    Marr & Hildreth 1980. At strength 1 the strongest 5 % of the strokes are white. RGB uint8 (h, w, 3) in and out.
    """
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    near, far = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (width, width * _SPREAD))
    darker = np.maximum(far - near - threshold, 0)
    strokes = darker[darker > 0]
    white = max(_FAINTEST, float(np.quantile(strokes, 0.95))) if strokes.size else _FAINTEST
    made = np.clip(darker * (255 * strength / white), 0, 255).astype(np.uint8)
    return cv2.cvtColor(made, cv2.COLOR_GRAY2RGB)


def lineart_adherence(
    wanted: np.ndarray, got_image: np.ndarray, *, width: float, threshold: float, strength: float
) -> float:
    """MS-SSIM of the drawn image's strokes and the map. 1 is perfect."""
    got = lineart(fit(got_image, wanted.shape[:2]), width=width, threshold=threshold, strength=strength)
    return ms_ssim(wanted[..., 0], got[..., 0])
