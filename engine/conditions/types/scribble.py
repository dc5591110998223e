"""A few thick strokes, as if drawn by hand."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import edge_f1, fit
from engine.conditions.randomness import rng_of, smooth_noise

SCRIBBLE = ConditionType(
    name="scribble",
    title="Scribble",
    teaches="A rough sketch: thick strokes show what is where, and the net finds the shapes that they may mean.",
    parameters=(
        Parameter(
            "detail",
            "Smallest shape",
            "float",
            4.0,
            1.0,
            16.0,
            0.5,
            hint="Pixels. Larger values draw only large shapes.",
            vary=(2.5, 7.0),
        ),
        Parameter(
            "faintest", "Threshold", "float", 6.0, 0.0, 30.0, 0.5, hint="Higher keeps only strong contrasts.",
            vary=(4.0, 10.0),
        ),
        Parameter("width", "Stroke width", "int", 4, 1, 15, 1, hint="Pixels.", vary=(3, 7), thickens=True),
        Parameter(
            "shortest", "Shortest stroke", "int", 30, 0, 300, 1, hint="Pixels. Shorter strokes are removed.",
            vary=(20, 60),
        ),
        Parameter(
            "wobble", "Unsteady hand", "float", 0.0, 0.0, 8.0, 0.5, hint="How far strokes deviate, in pixels.",
            vary=(0.0, 3.0)
        ),
    ),
    two_level=True,
    extract="engine.conditions.types.scribble:scribble",
    metric="engine.conditions.types.scribble:scribble_adherence",
)  # fmt: skip
TOLERANCE = 3  # pixels; strokes this close still match
_SPREAD = 1.6  # ratio of the two Gaussians, see lineart.py
_WAVE = 48.0  # pixels; wavelength of an unsteady hand


def scribble(
    image: np.ndarray, *, detail: float, faintest: float, width: int, shortest: int, wobble: float
) -> np.ndarray:
    """White strokes on black along the contours of smoothed shapes. RGB uint8 (h, w, 3) in and out.

    Contours are where the difference of two Gaussians (Marr & Hildreth 1980) changes its sign with enough slope.
    """
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    near, far = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (detail, detail * _SPREAD))
    apart = near - far
    brighter = (apart > 0).astype(np.uint8)
    contour = cv2.morphologyEx(brighter, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    reach = np.ones((2 * round(detail) + 1,) * 2, np.uint8)
    steep = cv2.dilate(apart, reach) - cv2.erode(apart, reach) > faintest
    strokes = (contour & steep).astype(np.uint8)
    strokes = _without_short(strokes, shortest)
    if width > 1:
        strokes = cv2.dilate(strokes, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    made = strokes * np.uint8(255)
    if wobble > 0:
        rng = rng_of(image, 0)
        ys, xs = np.mgrid[: made.shape[0], : made.shape[1]].astype(np.float32)
        stray = [smooth_noise(made.shape, _WAVE, rng) * wobble for _ in range(2)]
        moved = cv2.remap(made, xs + stray[0], ys + stray[1], cv2.INTER_LINEAR)
        made = (moved > 127) * np.uint8(255)
    return cv2.cvtColor(made, cv2.COLOR_GRAY2RGB)


def scribble_adherence(
    wanted: np.ndarray,
    got_image: np.ndarray,
    *,
    detail: float,
    faintest: float,
    width: int,
    shortest: int,
    wobble: float,
) -> float:
    """F1 of the drawn image's strokes and the map, with a tolerance of 3 px plus the wobble: 1 is perfect."""
    drawn = fit(got_image, wanted.shape[:2])
    got = scribble(drawn, detail=detail, faintest=faintest, width=width, shortest=shortest, wobble=0.0)
    return edge_f1(wanted[..., 0] > 127, got[..., 0] > 127, TOLERANCE + round(wobble))


def _without_short(strokes: np.ndarray, shortest: int) -> np.ndarray:
    import cv2

    _, labels, about, _ = cv2.connectedComponentsWithStats(strokes, connectivity=8)
    kept = about[:, cv2.CC_STAT_AREA] >= shortest  # strokes are about one pixel wide here, so the area is the length
    kept[0] = False
    return kept[labels].astype(np.uint8)
