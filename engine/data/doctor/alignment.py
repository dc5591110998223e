"""Alignment of a map with its image: is it mirrored, turned or shifted? Found by correlation.

The reference is a new map if the type has an extractor, otherwise the image's lightness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

COARSE, FINE = 128, 256  # sides in pixels for finding turns and shifts
REACH = 1 / 8  # largest shift, as a fraction of the shorter side
BORDER = 4  # pixels at the edge that are ignored, since filters create lines there

Turn = Callable[[np.ndarray], np.ndarray]
TURNS: dict[str, Turn] = {
    "same": lambda map: map,
    "mirrored": lambda map: map[:, ::-1],
    "upside down": lambda map: map[::-1],
    "turned by 180 degrees": lambda map: map[::-1, ::-1],
    "turned right by 90 degrees": lambda map: np.rot90(map, -1),
    "turned left by 90 degrees": lambda map: np.rot90(map),
    "mirrored and turned right": lambda map: np.rot90(map[:, ::-1], -1),
    "mirrored and turned left": lambda map: np.rot90(map[:, ::-1]),
}
"""What was done to the map -> the same transformation of an array."""
UNDO = {
    **{name: name for name in ("same", "mirrored", "upside down", "turned by 180 degrees")},
    "turned right by 90 degrees": "turned left by 90 degrees",
    "turned left by 90 degrees": "turned right by 90 degrees",
    "mirrored and turned right": "mirrored and turned right",
    "mirrored and turned left": "mirrored and turned left",
}
"""The last two are reflections across a diagonal, which undo themselves."""


@dataclass(frozen=True)
class Alignment:
    """Scores are correlations, -1 to 1."""

    same: float
    """Score of the map as it is, with a tolerance of a few pixels."""
    turn: str
    """The best of the seven other orientations."""
    turned: float
    lead: float
    """How much better that orientation is than the next best one except ``same``."""
    dx: float
    """Pixels of the map by which it is too far right (negative: left)."""
    dy: float
    here: float
    """Correlation of the outlines without a shift."""
    there: float
    """Correlation after shifting it by (-dx, -dy)."""
    tone: float
    """Correlation of lightness with the reference in the best orientation. Negative: inverted."""


def align(reference: np.ndarray, map: np.ndarray) -> Alignment:
    """Compares a map with its reference, both grey uint8 (h, w), of any size. Takes about 20 ms."""
    scores, tones = _turns(_square(reference), _square(map))
    others = sorted((name for name in scores if name != "same"), key=scores.__getitem__)
    best = others[-1]
    dx, dy, here, there = _shift(reference, map)
    tone = tones["same" if scores["same"] >= scores[best] else best]
    lead = scores[best] - scores[others[-2]]
    return Alignment(scores["same"], best, scores[best], lead, dx, dy, here, there, tone)


def _turns(reference: np.ndarray, map: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """For every orientation: the larger of outline and |tone| correlation, and the tone correlation with its sign."""
    reach = int(COARSE * REACH * 0.75)
    outlines = _peaks(_outlines(reference), _outlines(map), reach)
    tones = _peaks(_tones(reference), _tones(map), reach)
    return {name: max(outlines[name].max(), np.abs(tones[name]).max()) for name in TURNS}, {
        name: float(max(window.min(), window.max(), key=abs)) for name, window in tones.items()
    }


def _peaks(reference: np.ndarray, map: np.ndarray, reach: int) -> dict[str, np.ndarray]:
    """For every orientation, undone, the correlations at shifts up to ``reach`` pixels."""
    spectrum = np.fft.rfft2(reference)
    return {
        name: _window(spectrum, np.ascontiguousarray(TURNS[UNDO[name]](map)), reach).astype(np.float64)
        for name in TURNS
    }


def _shift(reference: np.ndarray, map: np.ndarray) -> tuple[float, float, float, float]:
    """(dx, dy) in pixels of the map, and the correlations without and with this shift."""
    height, width = map.shape
    scale = min(1.0, FINE / min(height, width))
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    reach = int(min(size) * REACH)
    window = _window(np.fft.rfft2(_outlines(_resized(reference, size))), _outlines(_resized(map, size)), reach)
    y, x = np.unravel_index(int(window.argmax()), window.shape)
    dx = -(int(x) - reach + _between(window[y, :], int(x)))
    dy = -(int(y) - reach + _between(window[:, x], int(y)))
    return dx * width / size[0], dy * height / size[1], float(window[reach, reach]), float(window.max())


def _between(line: np.ndarray, peak: int) -> float:
    """Position of the peak of a parabola through the peak and its neighbours, -0.5 to 0.5."""
    if not 0 < peak < len(line) - 1:
        return 0.0
    before, at, after = (float(value) for value in line[peak - 1 : peak + 2])
    bend = before - 2 * at + after
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5))


def _window(spectrum: np.ndarray, map: np.ndarray, reach: int) -> np.ndarray:
    """Cross-correlation by FFT at shifts -reach to reach, (2 reach + 1) squared, with no shift in the centre."""
    whole = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(map)), s=map.shape)
    rows = np.concatenate((whole[-reach:], whole[: reach + 1]))
    return np.concatenate((rows[:, -reach:], rows[:, : reach + 1]), axis=1)


def _square(grey: np.ndarray) -> np.ndarray:
    return _resized(grey, (COARSE, COARSE))


def _resized(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = grey.shape[0] > size[1]
    return cv2.resize(grey.astype(np.float32), size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _outlines(grey: np.ndarray) -> np.ndarray:
    """Square root of the gradient's strength, high-pass filtered. Lines, steps and areas peak at the same places."""
    soft = cv2.GaussianBlur(grey, (0, 0), 1.0)
    strength = np.sqrt(np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)))
    return _unit(cv2.GaussianBlur(strength, (0, 0), 1.5) - cv2.GaussianBlur(strength, (0, 0), 12))


def _tones(grey: np.ndarray) -> np.ndarray:
    """High-pass filtered lightness."""
    return _unit(cv2.GaussianBlur(grey, (0, 0), 1.5) - cv2.GaussianBlur(grey, (0, 0), 16))


def _unit(values: np.ndarray) -> np.ndarray:
    """Normalizes to mean 0 and length 1 inside the border, 0 on it. All 0 for a flat image."""
    framed = np.zeros_like(values)
    inner = values[BORDER:-BORDER, BORDER:-BORDER]
    framed[BORDER:-BORDER, BORDER:-BORDER] = inner - inner.mean()
    length = float(np.linalg.norm(framed))
    return framed / length if length > 1e-3 else np.zeros_like(values)
