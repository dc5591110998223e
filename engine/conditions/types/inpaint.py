"""The image with a part blacked out."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import concordance, fit
from engine.conditions.randomness import rng_of

INPAINT = ConditionType(
    name="inpaint",
    title="Inpaint mask",
    teaches="Inpainting: the visible part of the image stays as it is, and the net fills the black part to match.",
    parameters=(
        Parameter(
            "shape", "Shape of the hole", "choice", "mixed", choices=("mixed", "strokes", "boxes", "border"),
            hint="border: everything outside a window, for outpainting. mixed: one of the three, at random per image.",
        ),
        Parameter(
            "share", "Masked fraction", "float", 0.35, 0.05, 0.9, 0.05, hint="At least this fraction of the image.",
            vary=(0.1, 0.7),
        ),
        Parameter("seed", "Seed", "int", 0, 0, 9999, 1, hint="A different seed masks different parts."),
    ),
    extract="engine.conditions.types.inpaint:inpaint",
    metric="engine.conditions.types.inpaint:inpaint_adherence",
)  # fmt: skip
_MOST_SHAPES = 200  # an upper bound; no hole needs so many


def inpaint(image: np.ndarray, *, shape: str, share: float, seed: int) -> np.ndarray:
    """The image with a hole of pure black. Black pixels outside become (1, 1, 1), so that the hole is unambiguous.

    RGB uint8 (h, w, 3) in and out.
    """
    rng = rng_of(image, seed)
    if shape == "mixed":
        shape = ("strokes", "boxes", "border")[int(rng.integers(3))]
    hole = _border(image.shape[:2], share, rng) if shape == "border" else _drawn(image.shape[:2], shape, share, rng)
    return np.where(hole[..., None], np.uint8(0), np.maximum(image, 1))


def hole_of(map: np.ndarray) -> np.ndarray:
    """The masked area, bool (h, w)."""
    return np.asarray(map.any(-1) == 0)


def inpaint_adherence(wanted: np.ndarray, got_image: np.ndarray, *, shape: str, share: float, seed: int) -> float:
    """Lin's concordance of image and map outside the hole: 0 is chance, 1 perfect. Ignores the hole itself."""
    kept = ~hole_of(wanted)
    if not kept.any():
        return 1.0
    return concordance(wanted[kept], np.maximum(fit(got_image, wanted.shape[:2]), 1)[kept])


def _border(shape: tuple[int, int], share: float, rng: np.random.Generator) -> np.ndarray:
    """Everything except a window with the remaining area and about the image's aspect ratio."""
    hole = np.ones(shape, bool)
    stretch = float(np.exp(rng.uniform(-0.3, 0.3)))
    sides = [min(1.0, float(np.sqrt(1 - share)) * by) for by in (stretch, 1 / stretch)]
    rows, columns = (max(1, int(length * side)) for length, side in zip(shape, sides, strict=True))
    top, left = (int(rng.integers(0, spare + 1)) for spare in (shape[0] - rows, shape[1] - columns))
    hole[top : top + rows, left : left + columns] = False
    return hole


def _drawn(shape: tuple[int, int], kind: str, share: float, rng: np.random.Generator) -> np.ndarray:
    """Boxes or bent strokes, added until the fraction is reached."""
    import cv2

    hole = np.zeros(shape, np.uint8)
    height, width = shape
    short = min(shape)
    for _ in range(_MOST_SHAPES):
        if hole.mean() >= share:
            break
        y, x = int(rng.integers(height)), int(rng.integers(width))
        if kind == "boxes":
            half = rng.uniform(0.08, 0.25, 2) * short
            cv2.rectangle(hole, (int(x - half[1]), int(y - half[0])), (int(x + half[1]), int(y + half[0])), 1, -1)
            continue
        steps = rng.normal(0, 0.12 * short, (int(rng.integers(3, 8)), 2))
        path = np.cumsum(np.vstack([[x, y], steps]), 0).astype(np.int32)
        cv2.polylines(hole, [path], False, 1, max(1, int(rng.uniform(0.04, 0.12) * short)))
    return hole > 0
