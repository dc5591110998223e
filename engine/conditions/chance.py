"""Randomness of extractors: from the image and a seed alone, so that a map can be made again, bit for bit."""

from __future__ import annotations

import zlib

import numpy as np


def rng_of(image: np.ndarray, seed: int) -> np.random.Generator:
    """Another stream for every image (uint8, any shape) and every seed; the same ones give the same stream."""
    return np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(image).data)])


def smooth_noise(shape: tuple[int, int], cell: float, rng: np.random.Generator) -> np.ndarray:
    """Noise without features finer than about ``cell`` pixels, float32 (h, w), mean about 0, spread about 1."""
    import cv2

    rows, columns = (max(4, round(length / cell) + 2) for length in shape)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    fine = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (fine - fine.mean()) / max(1e-6, float(fine.std()))
