"""Soft brightness: where the light falls, without any detail."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import correlation, fit

LUMINANCE = ConditionType(
    name="luminance",
    title="Soft brightness",
    teaches="Brightness: soft bright and dark regions. Shapes and colours are free.",
    parameters=(
        Parameter(
            "blur",
            "Blur",
            "float",
            8.0,
            1.0,
            60.0,
            0.5,
            hint="Pixels. Larger values leave more to the prompt.",
            vary=(4.0, 20.0),
        ),
    ),
    extract="engine.conditions.types.luminance:luminance",
    metric="engine.conditions.types.luminance:luminance_adherence",
)


def luminance(image: np.ndarray, *, blur: float) -> np.ndarray:
    """Luma (Rec. 601) after a Gaussian blur of ``blur`` pixels. RGB uint8 (h, w, 3) in and out."""
    import cv2

    soft = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), blur)
    return cv2.cvtColor(soft, cv2.COLOR_GRAY2RGB)


def luminance_adherence(wanted: np.ndarray, got_image: np.ndarray, *, blur: float) -> float:
    """Pearson's r of the drawn image's soft brightness and the map: 0 is chance, 1 perfect."""
    return correlation(wanted[..., 0], luminance(fit(got_image, wanted.shape[:2]), blur=blur)[..., 0])
