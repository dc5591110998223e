"""Which shape is it: the best overlap over all places and scales, by correlation in the Fourier domain."""

from __future__ import annotations

from functools import cache

import numpy as np

from engine.demo.shapes import SHAPES, shape_mask

GRID = 64
"""Side of the masks that are compared, in pixels."""
_PADDED = 2 * GRID  # keeps the correlation from wrapping round
_RADII = 0.09 * 1.05 ** np.arange(40)  # fractions of the side, up to 0.60
_AREA_RATIO = (0.8, 1.25)  # unclipped area over the mask's, within which a shape that lies inside is looked for
_MARGIN = 0.12  # such a shape's centre keeps this far from the border; a disc's may lie anywhere in the image


@cache
def _templates(shape: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conjugate spectra (n, 128, 65), areas (n,), and clipped areas by centre (n, 64, 64), for all radii."""
    # drawn in a canvas of double size, so that a large shape is not clipped, then rolled to have its centre at 0, 0
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
    """Overlap with every template at every centre in the image: (n, 64, 64)."""
    return np.fft.irfft2(np.fft.rfft2(image)[None] * spectra, s=(_PADDED, _PADDED))[:, :GRID, :GRID]


def best_fit(mask: np.ndarray) -> tuple[float, str]:
    """(IoU, shape) of the shape that covers a bool mask (64, 64) best."""
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
