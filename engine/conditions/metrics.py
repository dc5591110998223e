"""Metrics shared by the condition types: how well one map matches another. A perfect match scores 1.

Chance scores 0, except for the two SSIMs: unrelated maps with large flat areas have some similarity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def fit(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes an image, RGB uint8 (h, w, 3), to (height, width)."""
    import cv2

    if image.shape[:2] == shape:
        return image
    shrinks = image.shape[0] > shape[0]
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def edge_f1(wanted: np.ndarray, got: np.ndarray, tolerance: int) -> float:
    """Chance-corrected F1 of two edge maps, bool (h, w). An edge matches one of the other map within ``tolerance`` px.

    P = |got and dil(wanted)| / |got|, R = |wanted and dil(got)| / |wanted|, score = (F1 - c) / (1 - c), where c is
    the F1 of randomly placed edges: their P is the density of dil(wanted), their R that of dil(got). It can be
    negative. Two empty maps score 1, an empty and a non-empty one 0.
    """
    import cv2

    if not wanted.any() or not got.any():
        return float(wanted.any() == got.any())
    ys, xs = np.mgrid[-tolerance : tolerance + 1, -tolerance : tolerance + 1]
    disc = (xs**2 + ys**2 <= tolerance**2 + 1).astype(np.uint8)
    wide_wanted, wide_got = (cv2.dilate(edges.astype(np.uint8), disc) > 0 for edges in (wanted, got))
    f1 = _harmonic((got & wide_wanted).sum() / got.sum(), (wanted & wide_got).sum() / wanted.sum())
    chance = _harmonic(wide_wanted.mean(), wide_got.mean())
    return 0.0 if chance >= 1 else float((f1 - chance) / (1 - chance))


def edge_f1_by_colour(
    wanted: np.ndarray, got: np.ndarray, palette: Sequence[tuple[int, int, int]], tolerance: int
) -> float:
    """Mean ``edge_f1`` over the palette's colours that occur in either map, RGB uint8 (h, w, 3) on black.

    Two maps without any of the colours score 1.
    """
    first, second = (_nearest_colour(map, palette) for map in (wanted, got))
    colours = np.setdiff1d(np.union1d(np.unique(first), np.unique(second)), [-1])
    scores = [edge_f1(first == colour, second == colour, tolerance) for colour in colours]
    return float(np.mean(scores)) if scores else 1.0


def cohen_kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Agreement of two label maps (same shape, small integers >= 0) beyond chance (Cohen 1960).

    kappa = (o - e) / (1 - e). o: fraction of equal labels, e: the fraction expected from the labels' frequencies.
    Two maps with the same single label score 1.
    """
    labels = int(max(first.max(), second.max())) + 1
    table = np.bincount(first.ravel() * labels + second.ravel(), minlength=labels**2).reshape(labels, labels)
    shares = table / table.sum()
    observed, expected = float(np.trace(shares)), float(shares.sum(0) @ shares.sum(1))
    return 1.0 if expected >= 1 else (observed - expected) / (1 - expected)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's r of two maps of one shape. Ignores overall brightness and contrast.

    A flat map scores 0 against any other, two flat maps 1.
    """
    a, b = (map.astype(np.float64).ravel() for map in (first, second))
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0 else float(not a.any() and not b.any())


def concordance(first: np.ndarray, second: np.ndarray) -> float:
    """Lin's concordance correlation (1989) of two maps of one shape. Unlike r, it requires equal values.

    2 cov / (var + var + (mean - mean)^2). Two equal flat maps score 1.
    """
    a, b = (map.astype(np.float64).ravel() for map in (first, second))
    apart = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return 1.0 if apart == 0 else float(2 * np.mean((a - a.mean()) * (b - b.mean())) / apart)


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two uint8 maps (h, w), Gaussian window of 1.5 px (Wang et al. 2004)."""
    return float(np.mean(np.prod(_structure(first.astype(np.float64), second.astype(np.float64)), axis=0)))


def ms_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM over up to five halvings of two uint8 maps (h, w), with the weights of Wang et al. 2003.

    Maps under 176 px on the shorter side have fewer scales, whose weights are normalized to a sum of 1. Negative
    similarity counts as 0.
    """
    import cv2

    a, b = first.astype(np.float64), second.astype(np.float64)
    scales = int(np.clip(np.log2(min(a.shape) / _WINDOW) + 1, 1, len(_SCALE_WEIGHTS)))
    weights = np.array(_SCALE_WEIGHTS[:scales]) / sum(_SCALE_WEIGHTS[:scales])
    score = 1.0
    for scale, weight in enumerate(weights, 1):
        light, structure = _structure(a, b)
        last = scale == scales  # brightness is compared at the coarsest scale only
        score *= max(0.0, float(np.mean(light * structure if last else structure))) ** weight
        a, b = (cv2.resize(map, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for map in (a, b))
    return float(score)


_WINDOW = 11  # pixels, 3.5 standard deviations on each side
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _structure(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM's two factors at every pixel, float64 (h, w): brightness; contrast and structure. Values are 0 to 255."""
    import cv2

    def mean(map: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(map, (_WINDOW, _WINDOW), 1.5, borderType=cv2.BORDER_REFLECT)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return light, (2 * cov + c2) / (var_a + var_b + c2)


def _nearest_colour(map: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """The index of the nearest colour at every pixel, -1 for black. Works for resized and dimmed maps."""
    bright = map.max(-1).astype(np.float32)
    full = map.astype(np.float32) * (255 / np.maximum(bright, 1))[..., None]
    found = np.full(map.shape[:2], -1)
    lit = bright > 90
    apart = ((full[lit][:, None] - np.array(palette, np.float32)[None]) ** 2).sum(-1)
    found[lit] = apart.argmin(1)
    return found


def _harmonic(precision: float, recall: float) -> float:
    return 0.0 if precision + recall == 0 else float(2 * precision * recall / (precision + recall))
