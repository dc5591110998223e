"""A mosaic of mean colours."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import fit

COLOUR_GRID = ConditionType(
    name="colour_grid",
    title="Colour grid",
    teaches="Colours by position: each square gives the mean colour of its part of the image. Shapes are free.",
    parameters=(
        Parameter(
            "cells",
            "Squares",
            "int",
            16,
            2,
            64,
            1,
            hint="Along the shorter side. Fewer squares leave more freedom.",
            vary=(8, 32),
        ),
    ),
    categorical=True,  # the colours are no labels, but the squares must stay sharp when a map is resized
    extract="engine.conditions.types.colour_grid:colour_grid",
    metric="engine.conditions.types.colour_grid:colour_grid_adherence",
)
UNRELATED = 44.0  # mean CIE76 delta E of the 16 x 16 grids of two unrelated photographs


def colour_grid(image: np.ndarray, *, cells: int) -> np.ndarray:
    """Squares of the mean CIE Lab colour. RGB uint8 (h, w, 3) in and out.

    The grid is centred, so a square centre crop keeps whole squares.
    """
    import cv2

    rows, columns = starts(image.shape[:2], cells)
    colours = cv2.cvtColor(_means(image, rows, columns), cv2.COLOR_LAB2RGB)
    made = np.clip(np.round(colours * 255), 0, 255).astype(np.uint8)
    height, width = image.shape[:2]
    return made.repeat(np.diff(rows, append=height), 0).repeat(np.diff(columns, append=width), 1)


def colour_grid_adherence(wanted: np.ndarray, got_image: np.ndarray, *, cells: int) -> float:
    """1 - mean delta E (CIE76) of the squares / 44: 1 is perfect, an unrelated photograph scores about 0."""
    rows, columns = starts(wanted.shape[:2], cells)
    got = _means(fit(got_image, wanted.shape[:2]), rows, columns)
    apart = np.linalg.norm(_means(wanted, rows, columns) - got, axis=-1).mean()
    return 1 - float(apart) / UNRELATED


def starts(shape: tuple[int, int], cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pixel row of each row of squares, and the first pixel column of each column."""
    side = max(1.0, min(shape) / cells)

    def along(length: int) -> np.ndarray:
        first = (length - min(shape)) / 2
        edges = np.round(np.arange(first - side * np.ceil(first / side), length, side))
        return np.unique(np.clip(edges, 0, length - 1)).astype(int)

    return along(shape[0]), along(shape[1])


def _means(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Mean Lab colour of each square, float32 (rows, columns, 3). L is 0 to 100."""
    import cv2

    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    sums = np.add.reduceat(np.add.reduceat(lab, rows, 0, dtype=np.float64), columns, 1)
    sizes = np.outer(np.diff(rows, append=image.shape[0]), np.diff(columns, append=image.shape[1]))
    return (sums / sizes[..., None]).astype(np.float32)
