"""Surface normals: the direction in which every surface faces."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import fit
from engine.conditions.types.depth import MODEL, MODEL_PARAMETER, nearness

NORMAL = ConditionType(
    name="normal",
    title="Surface direction (normal)",
    teaches="Surfaces: colours show which way they face. Light and folds follow. Computed from a depth map.",
    parameters=(
        MODEL_PARAMETER,
        Parameter("relief", "Relief", "float", 6.0, 1.0, 30.0, 0.5, hint="Higher makes slopes steeper.",
            vary=(4.0, 9.0)),
        Parameter("blur", "Blur first", "float", 1.5, 0.0, 10.0, 0.5, hint="Pixels of the depth map."),
        Parameter(
            "background", "Ignore the farthest", "float", 0.2, 0.0, 0.9, 0.05,
            hint="Fraction of the depth range that counts as flat background.",
        ),
    ),
    extract="engine.conditions.types.normal:normal",
    batch="engine.conditions.types.normal:normal_batch",
    metric="engine.conditions.types.normal:normal_adherence",
    models=(MODEL,),
)  # fmt: skip
_CHANCE = 0.5  # 1 - mean angle / 90 degrees between two unrelated maps, approximately


def normal(image: np.ndarray, *, model: str, relief: float, blur: float, background: float) -> np.ndarray:
    """Red: facing left, green: up, blue: towards the viewer; 128 is zero. RGB uint8 (h, w, 3) in and out."""
    return normal_batch([image], model=model, relief=relief, blur=blur, background=background)[0]


def normal_batch(
    images: list[np.ndarray], *, model: str, relief: float, blur: float, background: float
) -> list[np.ndarray]:
    """``normal`` for many images, with one pass of the depth model."""
    return [_colours(normals_of(near, relief, blur, background)) for near in nearness(images, model)]


def normals_of(near: np.ndarray, relief: float, blur: float, background: float) -> np.ndarray:
    """Unit vectors (h, w, 3), x left, y up, z towards the viewer, from the gradients of nearness (h, w).

    Nearness is scaled to 0..1. ``relief``: slope of a change of 1 over the shorter side.
    """
    import cv2

    spread = float(near.max() - near.min())
    values = ((near - near.min()) / max(spread, 1e-6)).astype(np.float32)
    if blur > 0:
        values = cv2.GaussianBlur(values, (0, 0), blur)
    along = [cv2.Sobel(values, cv2.CV_32F, dx, dy, ksize=3, scale=1 / 8) for dx, dy in ((1, 0), (0, 1))]
    slope = relief * min(near.shape)
    # A surface that gets nearer to the right faces left. One that gets nearer downwards faces up.
    vectors = np.stack([along[0] * slope, along[1] * slope, np.ones_like(values)], -1)
    vectors[values < background] = (0, 0, 1)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def normal_adherence(
    wanted: np.ndarray, got_image: np.ndarray, *, model: str, relief: float, blur: float, background: float
) -> float:
    """From the mean angle between the drawn image's normals and the map: 1 is perfect, unrelated maps score about 0."""
    got = normal(fit(got_image, wanted.shape[:2]), model=model, relief=relief, blur=blur, background=background)
    cosine = np.clip((_vectors(wanted) * _vectors(got)).sum(-1), -1, 1)
    agreement = 1 - float(np.degrees(np.arccos(cosine)).mean()) / 90
    return (agreement - _CHANCE) / (1 - _CHANCE)


def _colours(vectors: np.ndarray) -> np.ndarray:
    return np.round((vectors + 1) * 127.5).astype(np.uint8)


def _vectors(map: np.ndarray) -> np.ndarray:
    vectors = map.astype(np.float32) / 127.5 - 1
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
