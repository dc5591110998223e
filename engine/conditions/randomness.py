"""Random numbers for extractors. They depend on the image and a seed only, so a map can be made again bit for bit."""

from __future__ import annotations

import zlib

import numpy as np


def rng_of(image: np.ndarray, seed: int) -> np.random.Generator:
    """A generator that depends on the image (uint8, any shape) and on the seed."""
    return np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(image).data)])


def smooth_noise(shape: tuple[int, int], cell: float, rng: np.random.Generator) -> np.ndarray:
    """Noise without details below about ``cell`` pixels, float32 (h, w), mean about 0, standard deviation about 1."""
    import cv2

    rows, columns = (max(4, round(length / cell) + 2) for length in shape)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    fine = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (fine - fine.mean()) / max(1e-6, float(fine.std()))
