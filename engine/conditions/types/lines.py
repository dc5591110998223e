"""Straight lines: walls, windows, furniture, streets."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import edge_f1, fit

LINES = ConditionType(
    name="lines",
    title="Straight lines",
    teaches="Straight edges: white segments mark them, as in rooms and buildings. Curves are free.",
    parameters=(
        Parameter(
            "shortest",
            "Shortest line",
            "float",
            20.0,
            0.0,
            300.0,
            1.0,
            hint="Pixels. Shorter lines are removed.",
            vary=(10.0, 40.0),
        ),
        Parameter("width", "Line width", "int", 2, 1, 9, 1, hint="Pixels.", thickens=True),
        Parameter("blur", "Blur first", "float", 0.0, 0.0, 5.0, 0.1, hint="Pixels. Removes grain and fine texture."),
    ),
    two_level=True,
    extract="engine.conditions.types.lines:lines",
    metric="engine.conditions.types.lines:lines_adherence",
)
TOLERANCE = 3  # pixels; lines this close still match


def lines(image: np.ndarray, *, shortest: float, width: int, blur: float) -> np.ndarray:
    """White segments on black (LSD, Grompone von Gioi et al. 2012, in OpenCV). RGB uint8 (h, w, 3) in and out."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if blur > 0:
        grey = cv2.GaussianBlur(grey, (0, 0), blur)
    found = cv2.createLineSegmentDetector().detect(grey)[0]  # one detector per call: it is not thread-safe
    made = np.zeros_like(grey)
    for x1, y1, x2, y2 in np.zeros((0, 4)) if found is None else found.reshape(-1, 4):
        if np.hypot(x2 - x1, y2 - y1) >= shortest:
            cv2.line(made, (round(x1), round(y1)), (round(x2), round(y2)), 255, width)
    return cv2.cvtColor(made, cv2.COLOR_GRAY2RGB)


def lines_adherence(wanted: np.ndarray, got_image: np.ndarray, *, shortest: float, width: int, blur: float) -> float:
    """F1 of the drawn image's lines and the map, with a tolerance of 3 px: 0 is chance, 1 perfect."""
    got = lines(fit(got_image, wanted.shape[:2]), shortest=shortest, width=width, blur=blur)
    return edge_f1(wanted[..., 0] > 127, got[..., 0] > 127, TOLERANCE)
