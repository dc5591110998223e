"""Measures shared by the condition types: how far one map agrees with another. Chance scores 0, a perfect match 1."""

from __future__ import annotations

import numpy as np


def fit(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The picture, RGB uint8 (h, w, 3), brought to (height, width)."""
    import cv2

    if image.shape[:2] == shape:
        return image
    shrinks = image.shape[0] > shape[0]
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def edge_f1(wanted: np.ndarray, got: np.ndarray, tolerance: int) -> float:
    """Chance-corrected F1 of two edge maps, bool (h, w); an edge counts when the other has one within ``tolerance`` px.

    P = |got and dil(wanted)| / |got|, R = |wanted and dil(got)| / |wanted|, score = (F1 - c) / (1 - c), where c is
    the F1 of edges strewn at random: its P is the density of dil(wanted), its R that of dil(got). Can be negative.
    Two empty maps agree (1); an empty one never agrees with a full one (0).
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


def cohen_kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Agreement of two label maps (same shape, small integers >= 0) beyond chance (Cohen 1960).

    kappa = (o - e) / (1 - e), o: share of equal labels, e: the share expected from the labels' frequencies.
    Two maps with one and the same label everywhere agree (1).
    """
    labels = int(max(first.max(), second.max())) + 1
    table = np.bincount(first.ravel() * labels + second.ravel(), minlength=labels**2).reshape(labels, labels)
    shares = table / table.sum()
    observed, expected = float(np.trace(shares)), float(shares.sum(0) @ shares.sum(1))
    return 1.0 if expected >= 1 else (observed - expected) / (1 - expected)


def _harmonic(precision: float, recall: float) -> float:
    return 0.0 if precision + recall == 0 else float(2 * precision * recall / (precision + recall))
