"""How much of the lines of a control image is left after the VAE of a base. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

LOST = 0.5
"""Share of their pixels below which lines are lost. With the bundled base's VAE 0.02 or less is left of lines of one
pixel, 0.7 of two, 0.9 of three (docs/families.md); no VAE of full size was measured."""
LEAST_DRAWN, DRAWN = 20, 64
"""Pixels that a line map has at least, and how far from its ground they are, of 255."""


@dataclass(frozen=True)
class LinesKept:
    """What the VAE leaves of a map of lines."""

    pixels: float
    """Share of the lines' pixels that are still nearer to the lines than to the ground, 0..1."""
    contrast: float
    """Mean contrast of all of them, as a share of what it was, 0..1."""


def lines_kept(map: np.ndarray, again: np.ndarray) -> LinesKept | None:
    """How much of its lines a control image keeps; None: it is none of lines on a plain ground.

    A pixel belongs to a line if it is at least DRAWN from the most frequent grey value. A changed ground is no loss.

    Args:
        map, again: before and after the VAE, uint8 RGB (H, W, 3).
    """
    grey, after = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY).astype(np.float32) for one in (map, again))
    ground = float(np.bincount(grey.astype(np.uint8).ravel(), minlength=256).argmax())
    drawn = np.abs(grey - ground) >= DRAWN
    if not LEAST_DRAWN <= drawn.sum() <= grey.size / 2:
        return None
    before = grey[drawn] - ground
    left = (after[drawn] - np.median(after[~drawn])) * np.sign(before)
    contrast = float(left.mean() / np.abs(before).mean())
    return LinesKept(float((left >= np.abs(before) / 2).mean()), float(np.clip(contrast, 0, 1)))
