"""A small or blurred copy of the image, whose details the net adds."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import concordance, fit

TILE = ConditionType(
    name="tile",
    title="Blur (tile)",
    teaches="Composition and colours: the net adds the details that the blurred copy lacks, as in upscaling.",
    parameters=(
        Parameter(
            "way",
            "Method",
            "choice",
            "shrink",
            choices=("shrink", "blur"),
            hint="shrink: scale down and up again. blur: a Gaussian blur.",
        ),
        Parameter(
            "amount",
            "Amount",
            "float",
            8.0,
            1.5,
            64.0,
            0.5,
            hint="Scale factor, or twice the Gaussian's standard deviation in pixels. 8 is usual.",
            vary=(3.0, 16.0),
        ),
    ),
    extract="engine.conditions.types.tile:tile",
    metric="engine.conditions.types.tile:tile_adherence",
)


def tile(image: np.ndarray, *, way: str, amount: float) -> np.ndarray:
    """The image without details below about ``amount`` pixels. RGB uint8 (h, w, 3) in and out."""
    import cv2

    if way == "blur":
        return cv2.GaussianBlur(image, (0, 0), amount / 2)
    height, width = image.shape[:2]
    small = cv2.resize(
        image, (max(1, round(width / amount)), max(1, round(height / amount))), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def tile_adherence(wanted: np.ndarray, got_image: np.ndarray, *, way: str, amount: float) -> float:
    """Lin's concordance of the drawn image, blurred in the same way, and the map: 0 is chance, 1 perfect."""
    return concordance(wanted, tile(fit(got_image, wanted.shape[:2]), way=way, amount=amount))
