"""Black-and-white images, for nets that colour them."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import fit, ssim

GREY = ConditionType(
    name="grey",
    title="Grey (recolor)",
    teaches="All details except colour: the net colours a black-and-white image.",
    parameters=(
        Parameter("blur", "Blur first", "float", 0.0, 0.0, 5.0, 0.1, hint="Pixels. Removes grain.", vary=(0.0, 1.5)),
    ),
    extract="engine.conditions.types.grey:grey",
    metric="engine.conditions.types.grey:grey_adherence",
)


def grey(image: np.ndarray, *, blur: float) -> np.ndarray:
    """Lightness (CIE L*, scaled from 0..100 to 0..255) in all three channels. RGB uint8 (h, w, 3) in and out."""
    import cv2

    light = np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0])
    if blur > 0:
        light = cv2.GaussianBlur(light, (0, 0), blur)
    return cv2.cvtColor(light, cv2.COLOR_GRAY2RGB)


def grey_adherence(wanted: np.ndarray, got_image: np.ndarray, *, blur: float) -> float:
    """SSIM of the drawn image's lightness and the map. 1 is perfect."""
    return ssim(wanted[..., 0], grey(fit(got_image, wanted.shape[:2]), blur=blur)[..., 0])
