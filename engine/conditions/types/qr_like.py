"""Light and dark squares, as in a QR code."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import cohen_kappa, fit
from engine.conditions.types.colour_grid import starts

QR_LIKE = ConditionType(
    name="qr_like",
    title="QR-like squares",
    teaches="Light and dark squares: the image is light on white squares and dark on black ones, as in QR-code art.",
    parameters=(
        Parameter("cells", "Squares", "int", 32, 8, 96, 1, hint="Along the shorter side.", vary=(21, 57)),
        Parameter(
            "cut", "Threshold", "choice", "local", choices=("local", "whole"),
            hint="local: relative to the surroundings. whole: half of the squares of the image become light.",
        ),
        Parameter(
            "unsure", "Leave grey", "float", 0.0, 0.0, 40.0, 1.0,
            hint="Squares whose brightness (0 to 255) is this close to the threshold become grey: the net is free "
                "there.",
        ),
    ),
    categorical=True,
    extract="engine.conditions.types.qr_like:qr_like",
    metric="engine.conditions.types.qr_like:qr_like_adherence",
)  # fmt: skip
_AROUND = 4.0  # squares; standard deviation of the Gaussian for the brightness of the surroundings


def qr_like(image: np.ndarray, *, cells: int, cut: str, unsure: float) -> np.ndarray:
    """Squares of 0, 255 or (near the threshold) 128 by their mean luma (Rec. 601). RGB uint8 (h, w, 3) in and out.

    Made from photographs, so that every map has an image. A phone cannot read these as codes. The grid is centred.
    """
    rows, columns = starts(image.shape[:2], cells)
    above = _above(image, rows, columns, cut)
    squares = np.where(above >= 0, np.uint8(255), np.uint8(0))
    squares[np.abs(above) < unsure] = 128
    height, width = image.shape[:2]
    made = squares.repeat(np.diff(rows, append=height), 0).repeat(np.diff(columns, append=width), 1)
    return made[..., None].repeat(3, 2)


def qr_like_adherence(wanted: np.ndarray, got_image: np.ndarray, *, cells: int, cut: str, unsure: float) -> float:
    """Cohen's kappa over the squares that are white or black in the map: 0 is chance, 1 perfect."""
    rows, columns = starts(wanted.shape[:2], cells)
    middle = (_middles(rows, wanted.shape[0])[:, None], _middles(columns, wanted.shape[1])[None])
    asked = wanted[..., 0][middle]
    got = _above(fit(got_image, wanted.shape[:2]), rows, columns, cut) >= 0
    sure = (asked < 64) | (asked > 191)
    if not sure.any():
        return 1.0
    return cohen_kappa((asked[sure] > 127).astype(np.int64), got[sure].astype(np.int64))


def _above(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, cut: str) -> np.ndarray:
    """How much brighter each square is than the threshold, float32 (rows, columns)."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    sums = np.add.reduceat(np.add.reduceat(grey, rows, 0, dtype=np.int64), columns, 1)
    sizes = np.outer(np.diff(rows, append=image.shape[0]), np.diff(columns, append=image.shape[1]))
    means = (sums / sizes).astype(np.float32)
    around = np.median(means) if cut == "whole" else cv2.GaussianBlur(means, (0, 0), _AROUND)
    return np.round(means - around, 1)  # rounding errors must not decide the colour of a uniform wall


def _middles(starts: np.ndarray, length: int) -> np.ndarray:
    return (starts + np.diff(starts, append=length) // 2).astype(int)
