"""Hard edges."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import edge_f1, fit

CANNY = ConditionType(
    name="canny",
    title="Canny edges",
    teaches="Outlines: white lines mark where shapes end, and the image puts its edges there.",
    parameters=(
        Parameter(
            "low",
            "Weak edges from",
            "int",
            100,
            0,
            500,
            1,
            hint="Lower keeps fainter lines that touch strong ones.",
            vary=(50, 130),
        ),
        Parameter(
            "high",
            "Strong edges from",
            "int",
            200,
            0,
            500,
            1,
            hint="Lower starts lines at fainter edges.",
            vary=(130, 260),
        ),
        Parameter(
            "blur",
            "Blur first",
            "float",
            0.0,
            0.0,
            5.0,
            0.1,
            hint="Pixels; takes away grain and fine texture.",
            vary=(0.0, 1.5),
        ),
    ),
    two_level=True,
    extract="engine.conditions.types.canny:canny",
    metric="engine.conditions.types.canny:canny_adherence",
)
TOLERANCE = 2  # pixels by which an edge may be off and still count


def canny(image: np.ndarray, *, low: int, high: int, blur: float) -> np.ndarray:
    """White one-pixel edges on black (Canny 1986, OpenCV's implementation). RGB uint8 (h, w, 3) in and out."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if blur > 0:
        grey = cv2.GaussianBlur(grey, (0, 0), blur)
    return cv2.cvtColor(cv2.Canny(grey, min(low, high), max(low, high)), cv2.COLOR_GRAY2RGB)


def canny_adherence(wanted: np.ndarray, got_image: np.ndarray, *, low: int, high: int, blur: float) -> float:
    """F1 of the image's own edges with the wanted ones, 2 px tolerance: 0 is chance, 1 perfect."""
    got = canny(fit(got_image, wanted.shape[:2]), low=low, high=high, blur=blur)
    return edge_f1(wanted[..., 0] > 127, got[..., 0] > 127, TOLERANCE)
