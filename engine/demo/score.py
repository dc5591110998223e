"""Analyses an image of one shape on a background: where the shape is, and which colours they have.

Exact for drawn images, and robust against the noise and the soft edges of generated ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from engine.demo.shapes import PALETTE, Scene, shape_mask
from engine.demo.templates import GRID, best_fit

SAME_COLOUR = 12.0  # clusters within this delta E 1976 are one; palette colours differ by 33 and more
SMALLEST = 0.005  # clusters below this fraction of the image are specks
UNSURE_BORDER = 0.3  # if the smaller cluster has this fraction of the border, it may be the background
NOTHING = "nothing"
"""Shape and colours of an image that has a single colour."""

_NAMES = tuple(PALETTE)


@dataclass(frozen=True)
class Region:
    """One of the two clusters: bool mask (h, w), its colour in Lab, and the nearest palette name."""

    mask: np.ndarray
    lab: np.ndarray
    name: str


@dataclass(frozen=True)
class DiscScore:
    """How well an image shows its scene. ``iou``: 0 to 1."""

    iou: float
    colours_right: bool
    foreground: str
    background: str


def to_lab(image: np.ndarray) -> np.ndarray:
    """RGB uint8 (..., 3) to CIE Lab float32, L is 0..100."""
    rows = np.ascontiguousarray(image, np.uint8).reshape(1, -1, 3).astype(np.float32) / 255
    return cv2.cvtColor(rows, cv2.COLOR_RGB2LAB).reshape(image.shape)


_PALETTE_LAB = to_lab(np.array([PALETTE[name] for name in _NAMES], np.uint8))


def nearest_name(lab: np.ndarray) -> str:
    """The palette colour nearest to a Lab colour (3,), by delta E 1976."""
    return _NAMES[int(np.linalg.norm(_PALETTE_LAB - lab, axis=1).argmin())]


def read_image(image: np.ndarray) -> tuple[Region, Region] | None:
    """Splits RGB uint8 (h, w, 3) into two regions by colour. None if it has a single colour.

    Two-means in Lab after a 3 x 3 median, initialized by splitting along the direction of the largest variance, so
    nothing is random.
    """
    lab = to_lab(cv2.medianBlur(np.ascontiguousarray(image), 3))
    pixels = lab.reshape(-1, 3)
    centred = pixels - pixels.mean(axis=0)
    widest = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    along = centred @ widest
    begin = (along > (along.min() + along.max()) / 2).astype(np.int32)[:, None]
    if begin.min() == begin.max():
        return None
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.1)
    labels = cv2.kmeans(pixels, 2, begin, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS)[1].reshape(lab.shape[:2])
    masks = [labels == 0, labels == 1]
    if min(mask.mean() for mask in masks) < SMALLEST:
        return None
    first, second = (_region(mask, lab) for mask in masks)
    return None if np.linalg.norm(first.lab - second.lab) < SAME_COLOUR else (first, second)


def score_disc(image: np.ndarray, scene: Scene) -> DiscScore:
    """Compares a square image, RGB uint8 (h, w, 3), with the scene that its control image and caption describe.

    The foreground is the region that fits the caption's colours better. ``iou`` compares it with the true shape.
    """
    regions = read_image(image)
    if regions is None:
        return DiscScore(0.0, False, NOTHING, NOTHING)
    wanted = to_lab(np.array([PALETTE[scene.foreground], PALETTE[scene.background]], np.uint8))

    def misfit(pair: tuple[Region, Region]) -> float:
        return float(sum(np.linalg.norm(region.lab - lab) for region, lab in zip(pair, wanted, strict=True)))

    front, ground = min((regions, regions[::-1]), key=misfit)
    true = shape_mask(scene.shape, scene.centre, scene.radius, image.shape[0], scene.seed)
    iou = float((front.mask & true).sum() / (front.mask | true).sum())
    right = front.name == scene.foreground and ground.name == scene.background
    return DiscScore(iou, right, front.name, ground.name)


def read_scene(image: np.ndarray) -> tuple[str, str, str]:
    """(shape, foreground, background) of an image drawn from a caption only, RGB uint8 (h, w, 3), square.

    The background is the region with most of the border. If that is unclear, as for large discs, the foreground is the
    one that fits a shape better.
    """
    regions = read_image(image)
    if regions is None:
        return NOTHING, NOTHING, NOTHING
    on_border = [_border_share(region.mask) for region in regions]
    ground = int(on_border[1] > on_border[0])
    readings = [(regions[1 - ground], regions[ground])]
    if min(on_border) > UNSURE_BORDER:
        readings.append((regions[ground], regions[1 - ground]))
    fits = [(*best_fit(_small(front.mask)), front.name, back.name) for front, back in readings]
    _, shape, foreground, background = max(fits, key=lambda fit: fit[0])
    return shape, foreground, background


def _region(mask: np.ndarray, lab: np.ndarray) -> Region:
    """The region of a mask. Its colour is the median of the interior, since edges are mixed."""
    inside = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    colour = np.median(lab[inside if inside.sum() >= 20 else mask], axis=0)
    return Region(mask, colour, nearest_name(colour))


def _border_share(mask: np.ndarray) -> float:
    return float(np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).mean())


def _small(mask: np.ndarray) -> np.ndarray:
    """The mask at the templates' size, without specks."""
    small = cv2.resize(mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
    return cv2.medianBlur((small > 0.5).astype(np.uint8), 3) > 0
