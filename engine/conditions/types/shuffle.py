"""The image's colours and textures, warped beyond recognition."""

from __future__ import annotations

import numpy as np

from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import fit
from engine.conditions.randomness import rng_of, smooth_noise

SHUFFLE = ConditionType(
    name="shuffle",
    title="Shuffle",
    teaches="Palette and texture: the image takes the colours of the shuffled map, regardless of where they are.",
    parameters=(
        Parameter(
            "size",
            "Size of the pieces",
            "int",
            256,
            32,
            512,
            8,
            hint="Pixels. Smaller values shuffle more finely.",
            vary=(128, 320),
        ),
        Parameter("seed", "Seed", "int", 0, 0, 9999, 1, hint="A different seed shuffles differently."),
    ),
    extract="engine.conditions.types.shuffle:shuffle",
    metric="engine.conditions.types.shuffle:shuffle_adherence",
)
_BINS = (8, 8, 8)  # for L, a, b
_UNRELATED = 0.25  # approximate histogram intersection of two unrelated photographs


def shuffle(image: np.ndarray, *, size: int, seed: int) -> np.ndarray:
    """Warps the image along smooth random coordinates. RGB uint8 (h, w, 3) in and out.

    The coordinates are noise with a uniform distribution over the image, so that every part of it is used.
    """
    import cv2

    rng = rng_of(image, seed)
    height, width = image.shape[:2]
    across, down = (_levelled(smooth_noise((height, width), size, rng)) for _ in range(2))
    return cv2.remap(
        image, across * (width - 1), down * (height - 1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


def shuffle_adherence(wanted: np.ndarray, got_image: np.ndarray, *, size: int, seed: int) -> float:
    """Intersection of the two Lab histograms (8 x 8 x 8, smoothed): 1 is perfect, unrelated photos have about 0."""
    shared = float(np.minimum(_histogram(wanted), _histogram(fit(got_image, wanted.shape[:2]))).sum())
    return (shared - _UNRELATED) / (1 - _UNRELATED)


def _levelled(noise: np.ndarray) -> np.ndarray:
    """Maps normally distributed values to a uniform distribution over 0..1 (logistic approximation, error < 0.01)."""
    return (1 / (1 + np.exp(-1.702 * noise))).astype(np.float32)


def _histogram(image: np.ndarray) -> np.ndarray:
    """A histogram with sum 1, smoothed over neighbouring bins, so that small colour changes have little effect."""
    import cv2

    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    found, _ = np.histogramdd(lab, _BINS, ((0, 100), (-100, 100), (-100, 100)))
    for axis in range(3):
        ends = [np.take(found, [0], axis), np.take(found, [-1], axis)]
        wide = np.concatenate([ends[0], found, ends[1]], axis)
        lower, upper = (np.take(wide, range(start, start + _BINS[axis]), axis) for start in (0, 2))
        found = (lower + 2 * found + upper) / 4
    return found / found.sum()
