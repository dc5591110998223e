"""Recognizes a shape by its best overlap at any place and scale, using correlation in the Fourier domain."""

from __future__ import annotations

from functools import cache

import numpy as np

from engine.demo.shapes import SHAPES, shape_mask

GRID = 64
"""Side of the compared masks in pixels."""
_PADDED = 2 * GRID  # keeps the correlation from wrapping around
_RADII = 0.09 * 1.05 ** np.arange(40)  # fractions of the side, up to 0.60
_AREA_RATIO = (0.8, 1.25)  # range of unclipped area over the mask's area for shapes that lie inside the image
_MARGIN = 0.12  # least distance of such a shape's centre from the border; a disc's can be anywhere


@cache
def _templates(shape: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For all radii: conjugate spectra (n, 128, 65), areas (n,), and clipped areas by centre (n, 64, 64)."""
    # Drawn in a canvas of double size, so that a large shape is not clipped, then rolled until its centre is at 0, 0.
    half = (0.5 / _PADDED, 0.5 / _PADDED)
    masks = np.stack(
        [shape_mask(shape, (0.5 + half[0], 0.5 + half[1]), float(r) * GRID / _PADDED, _PADDED) for r in _RADII]
    )
    rolled = np.roll(masks, (-GRID, -GRID), axis=(1, 2)).astype(np.float32)
    spectra = np.conj(np.fft.rfft2(rolled)).astype(np.complex64)
    whole = np.zeros((_PADDED, _PADDED), np.float32)
    whole[:GRID, :GRID] = 1
    clipped = _correlate(whole, spectra)
    return spectra, masks.sum(axis=(1, 2)).astype(np.float64), clipped


def _correlate(image: np.ndarray, spectra: np.ndarray) -> np.ndarray:
    """Overlap with every template at every centre inside the image: (n, 64, 64)."""
    return np.fft.irfft2(np.fft.rfft2(image)[None] * spectra, s=(_PADDED, _PADDED))[:, :GRID, :GRID]


def best_fit(mask: np.ndarray) -> tuple[float, str]:
    """(IoU, shape) of the shape that fits a bool mask (64, 64) best."""
    area = float(mask.sum())
    padded = np.zeros((_PADDED, _PADDED), np.float32)
    padded[:GRID, :GRID] = mask
    edge = int(_MARGIN * GRID)
    best = (0.0, SHAPES[0])
    for shape in SHAPES:
        spectra, areas, clipped = _templates(shape)
        ratio = areas / max(area, 1.0)
        inside = shape != "circle"
        chosen = (ratio > _AREA_RATIO[0]) & ((ratio < _AREA_RATIO[1]) | (not inside))
        if not chosen.any():
            continue
        overlap = _correlate(padded, spectra[chosen])
        iou = overlap / (area + clipped[chosen] - overlap)
        if inside:
            iou = iou[:, edge:-edge, edge:-edge]
        best = max(best, (float(iou.max()), shape))
    return best
