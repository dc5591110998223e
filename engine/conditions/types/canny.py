"""Hard edges."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import edge_f1, fit

CANNY = ConditionType(
    name="canny",
    title="Canny edges",
    teaches="Outlines: white lines mark where the image has edges.",
    parameters=(
        Parameter(
            "low",
            "Low threshold",
            "int",
            100,
            0,
            500,
            1,
            hint="Lower values keep more of the faint lines that touch strong ones. 100 is usual.",
            vary=(50, 130),
            at_most="high",
        ),
        Parameter(
            "high",
            "High threshold",
            "int",
            200,
            0,
            500,
            1,
            hint="Lower values also start lines at faint edges. 200 is usual.",
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
            hint="Pixels. Removes grain and fine texture.",
            vary=(0.0, 1.5),
        ),
        Parameter(
            "edges",
            "Edges from",
            "choice",
            "colour",
            choices=("colour", "grey"),
            hint="colour: like ComfyUI, AUTOMATIC1111 and published Canny nets; also finds edges between colours of "
            "equal brightness. grey: like earlier versions of this app.",
            former="grey",
        ),
    ),
    two_level=True,
    extract="engine.conditions.types.canny:canny",
    metric="engine.conditions.types.canny:canny_adherence",
)
TOLERANCE = 2  # pixels; edges this close still match


def canny(image: np.ndarray, *, low: int, high: int, blur: float, edges: str) -> np.ndarray:
    """White one-pixel edges on black (Canny 1986, OpenCV's implementation). RGB uint8 (h, w, 3) in and out.

    Of a colour image OpenCV takes, at each pixel, the channel with the largest gradient.
    """
    import cv2

    seen = image if edges == "colour" else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if blur > 0:
        seen = cv2.GaussianBlur(seen, (0, 0), blur)
    return cv2.cvtColor(cv2.Canny(seen, min(low, high), max(low, high)), cv2.COLOR_GRAY2RGB)


def canny_adherence(
    wanted: np.ndarray, got_image: np.ndarray, *, low: int, high: int, blur: float, edges: str
) -> float:
    """F1 of the drawn image's edges and the map, with a tolerance of 2 px: 0 is chance, 1 perfect."""
    got = canny(fit(got_image, wanted.shape[:2]), low=low, high=high, blur=blur, edges=edges)
    return edge_f1(wanted[..., 0] > 127, got[..., 0] > 127, TOLERANCE)
