"""Coloured shapes: the images on which the bundled tiny base was trained.

Uses numpy and OpenCV only. Colours are exact CSS colours and edges are not smoothed, so an image can be analysed
exactly (see ``engine.demo.score``).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# 24 CSS colours, chosen greedily so that any two differ by at least 33 in CIE Lab (delta E 1976).
PALETTE: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "red": (255, 0, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "green": (0, 128, 0),
    "teal": (0, 128, 128),
    "brown": (165, 42, 42),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
    "pink": (255, 192, 203),
    "gray": (128, 128, 128),
    "navy": (0, 0, 128),
    "magenta": (255, 0, 255),
    "lime": (0, 255, 0),
    "deep pink": (255, 20, 147),
    "aqua": (0, 255, 255),
    "khaki": (240, 230, 140),
    "deep sky blue": (0, 191, 255),
    "royal blue": (65, 105, 225),
    "violet": (238, 130, 238),
    "pale green": (152, 251, 152),
    "olive": (128, 128, 0),
    "peru": (205, 133, 63),
}
SHAPES = ("circle", "square", "triangle", "star")
BLOB = "blob"


@dataclass(frozen=True)
class Scene:
    """A shape of one colour on a background of another. Lengths are fractions of the image's side."""

    shape: str
    foreground: str
    background: str
    centre: tuple[float, float]
    radius: float
    seed: int = 0

    @property
    def caption(self) -> str:
        return f"{self.foreground} {self.shape} with {self.background} background"


def polygon(shape: str) -> np.ndarray:
    """Corners (n, 2) of a shape inscribed in the unit circle. y points down, the first corner is at the top."""
    if shape == "square":
        angles, radii = np.deg2rad([45, 135, 225, 315]), np.ones(4)
    elif shape == "triangle":
        angles, radii = np.deg2rad([0, 120, 240]), np.ones(3)
    elif shape == "star":
        angles = np.deg2rad(np.arange(10) * 36)
        radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    else:
        raise ValueError(f"no polygon for {shape!r}; known: square, triangle, star")
    return np.stack([np.sin(angles) * radii, -np.cos(angles) * radii], axis=1)


def shape_mask(shape: str, centre: tuple[float, float], radius: float, size: int, seed: int = 0) -> np.ndarray:
    """The mask of a shape: bool array (size, size). ``seed`` is for blobs only."""
    if shape == "circle":
        ys, xs = (np.mgrid[:size, :size] + 0.5) / size
        return (xs - centre[0]) ** 2 + (ys - centre[1]) ** 2 <= radius**2
    if shape == BLOB:
        return blob_mask(seed, size)
    corners = (polygon(shape) * radius + np.asarray(centre)) * size
    canvas = np.zeros((size, size), np.uint8)
    fixed_point = 16  # cv2 takes sub-pixel corners as integers with four fractional bits
    cv2.fillPoly(canvas, [np.round((corners - 0.5) * fixed_point).astype(np.int32)], 255, shift=4)
    return canvas > 0


def blob_mask(seed: int, size: int) -> np.ndarray:
    """A smooth random region that covers 25 to 60 % of the image: bool array (size, size)."""
    rng = np.random.default_rng([7, seed])
    field = cv2.resize(rng.standard_normal((5, 5)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return field > np.quantile(field, 1 - rng.uniform(0.25, 0.6))


def contrast(first: str, second: str) -> float:
    """Distance of two palette colours in RGB, 0 to 441."""
    return float(np.linalg.norm(np.subtract(PALETTE[first], PALETTE[second], dtype=np.float64)))


def random_colours(rng: np.random.Generator) -> tuple[str, str]:
    """Two palette names whose colours are easy to tell apart (distance over 90 in RGB)."""
    names = list(PALETTE)
    while True:
        first, second = (names[i] for i in rng.choice(len(names), 2, replace=False))
        if contrast(first, second) > 90:
            return first, second


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene for training the base. Circles may be large and clipped by the border, other shapes lie inside."""
    foreground, background = random_colours(rng)
    shape = str(rng.choice([*SHAPES, BLOB], p=[0.3, 0.18, 0.18, 0.18, 0.16]))
    if shape == "circle":
        radius, low = rng.uniform(0.125, 0.5), 0.1875
    else:
        radius = rng.uniform(0.2, 0.38)
        low = max(0.8 * radius, 0.2)
    centre = tuple(rng.uniform(low, 1 - low, 2))
    return Scene(shape, foreground, background, centre, float(radius), int(rng.integers(2**31)))


def paint(mask: np.ndarray, foreground: str, background: str) -> np.ndarray:
    """RGB uint8 (h, w, 3): the foreground colour inside the mask, the background colour outside."""
    colours = np.array([PALETTE[background], PALETTE[foreground]], np.uint8)
    return colours[mask.astype(np.uint8)]


def draw(scene: Scene, size: int) -> np.ndarray:
    """The image of a scene, RGB uint8 (size, size, 3)."""
    mask = shape_mask(scene.shape, scene.centre, scene.radius, size, scene.seed)
    return paint(mask, scene.foreground, scene.background)
