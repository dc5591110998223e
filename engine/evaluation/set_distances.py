"""Distances between two sets of images, from the features of a net: KID and FID. ``clip.py`` has CMMD.

Both are defined for Inception's features and named after them. This app computes them from CLIP's, so its figures are
called "KID (CLIP features)" and "FID (CLIP features)"; they compare checkpoints with each other, not with papers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.machine.units import counted

SUBSETS, SUBSET = 100, 1000
"""Number of random subsets for KID, and their largest size, as in the paper's experiments."""
MIN_FID = 2048
"""Images of each set from which on FID is computed."""


class Kid(NamedTuple):
    """KID times 1,000, as papers print it."""

    value: float
    """About 0 for two sets of one distribution; it can be slightly negative."""
    spread: float
    """Standard deviation over the subsets."""


def kid(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Kid:
    """Kernel inception distance of features (n, d) and (m, d): the mean of the unbiased MMD^2 over random subsets.

    Kernel: (x.y / d + 1)^3. A subset has half of the smaller set, at most ``SUBSET`` images. Source: Binkowski et al.
    2018, "Demystifying MMD GANs", arXiv 1801.01401, section 4.

    Raises:
        ValueError: a set has fewer than four images.
    """
    size = min(SUBSET, min(len(first), len(second)) // 2)
    if size < 2:
        raise ValueError("each set needs at least four images")
    rng, found = np.random.default_rng(seed), []
    for _ in range(SUBSETS):
        rows = (rng.choice(len(one), size, replace=False) for one in (first, second))
        found.append(polynomial_mmd(first[next(rows)], second[next(rows)]))
    return Kid(1000 * float(np.mean(found)), 1000 * float(np.std(found)))


def polynomial_mmd(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy with KID's kernel: without the pairs (x, x)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.astype(np.float64) @ b.T.astype(np.float64) / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    return within(first) + within(second) - 2 * float(kernel(first, second).mean())


def fid(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance of Gaussians with the means and covariances of features (n, d) and (m, d).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2). The last trace is that of (S1^1/2 S2 S1^1/2)^1/2, whose matrices are
    symmetric. Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", arXiv 1706.08500.
    """
    means = first.mean(0, dtype=np.float64) - second.mean(0, dtype=np.float64)
    one, two = (np.cov(rows.astype(np.float64), rowvar=False) for rows in (first, second))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ two @ root), 0)).sum()
    return float(means @ means + np.trace(one) + np.trace(two) - 2 * product)


def why_no_fid(images: int) -> str:
    """Why there is no FID of sets of so many images, as a sentence; "" if there is one."""
    if images >= MIN_FID:
        return ""
    return (
        f"FID is left out: with {counted(images, 'image')} it would measure their number more than them. It is "
        f"computed from {MIN_FID:,} pairs on; KID has no such bias."
    )
