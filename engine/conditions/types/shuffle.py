"""The image's colours and textures, stirred."""

from __future__ import annotations

import numpy as np

from engine.conditions.chance import rng_of, smooth_noise
from engine.conditions.declaration import ConditionType, Parameter
from engine.conditions.metrics import fit

SHUFFLE = ConditionType(
    name="shuffle",
    title="Shuffle",
    teaches="Palette and texture: the image takes the colours of the stirred map, whatever is where in it.",
    parameters=(
        Parameter(
            "size",
            "Size of the pieces",
            "int",
            256,
            32,
            512,
            8,
            hint="Pixels; smaller stirs more finely.",
            vary=(128, 320),
        ),
        Parameter("seed", "Seed", "int", 0, 0, 9999, 1, hint="Another number stirs another way."),
    ),
    extract="engine.conditions.types.shuffle:shuffle",
    metric="engine.conditions.types.shuffle:shuffle_adherence",
)
_BINS = (8, 8, 8)  # of L, a, b
_STRANGERS = 0.25  # histogram intersection of two unrelated photographs, about


def shuffle(image: np.ndarray, *, size: int, seed: int) -> np.ndarray:
    """Every pixel is fetched from where smooth noise says. RGB uint8 (h, w, 3) in and out.

    The two coordinates are noise that was levelled out over the whole image, so that each part of it is seen.
    """
    import cv2

    rng = rng_of(image, seed)
    height, width = image.shape[:2]
    across, down = (_levelled(smooth_noise((height, width), size, rng)) for _ in range(2))
    return cv2.remap(
        image, across * (width - 1), down * (height - 1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


def shuffle_adherence(wanted: np.ndarray, got_image: np.ndarray, *, size: int, seed: int) -> float:
    """Shared part of the two Lab histograms (8 x 8 x 8, softened): unrelated photographs have about 0, 1 is perfect."""
    shared = float(np.minimum(_histogram(wanted), _histogram(fit(got_image, wanted.shape[:2]))).sum())
    return (shared - _STRANGERS) / (1 - _STRANGERS)


def _levelled(noise: np.ndarray) -> np.ndarray:
    """Values brought to an even spread over 0..1 by the normal distribution's own formula (logistic, error < 0.01)."""
    return (1 / (1 + np.exp(-1.702 * noise))).astype(np.float32)


def _histogram(image: np.ndarray) -> np.ndarray:
    """Shares that sum to 1; neighbouring bins share, so that a small drift in colour costs little."""
    import cv2

    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    found, _ = np.histogramdd(lab, _BINS, ((0, 100), (-100, 100), (-100, 100)))
    for axis in range(3):
        ends = [np.take(found, [0], axis), np.take(found, [-1], axis)]
        wide = np.concatenate([ends[0], found, ends[1]], axis)
        lower, upper = (np.take(wide, range(start, start + _BINS[axis]), axis) for start in (0, 2))
        found = (lower + 2 * found + upper) / 4
    return found / found.sum()
