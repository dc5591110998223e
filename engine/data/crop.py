"""Crops that an image and its condition map share, so that they stay aligned."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Crop:
    """A box in the image's pixels (left, top, right, bottom), and the size (width, height) to which it is resized."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    source: tuple[int, int]
    """Width and height of the image."""


MODES = ("centre", "random", "smart")
SMART_SIDE = 256  # longer side, in pixels, at which saliency is computed
CENTRE_PULL = 0.02  # a box at the border must contain this much more saliency than one in the centre


def shared_crop(
    width: int,
    height: int,
    resolution: int | tuple[int, int],
    mode: str = "centre",
    seed: int | None = None,
    image: Image.Image | None = None,
) -> Crop:
    """The largest box with the aspect ratio of the target. ``resolution``: side of a square, or (width, height).

    ``mode``: "centre"; "random", at a place that depends on ``seed`` only, so that a resumed run crops in the same
    way; "smart", where ``image`` is most salient (see ``saliency``).
    """
    if mode not in MODES:
        raise ValueError(f"no crop mode {mode!r}; known: {', '.join(MODES)}")
    if min(width, height) < 1:
        raise ValueError(f"an image of {width} x {height} pixels cannot be cropped")
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    scale = min(width / size[0], height / size[1])
    box_width = min(width, max(1, round(size[0] * scale)))
    box_height = min(height, max(1, round(size[1] * scale)))
    spare = (width - box_width, height - box_height)
    if mode == "centre":
        left, top = spare[0] // 2, spare[1] // 2
    elif mode == "random":
        if seed is None:
            raise ValueError("a random crop needs a seed")
        rng = np.random.default_rng(seed)
        left, top = (int(rng.integers(0, s + 1)) for s in spare)
    else:
        if image is None:
            raise ValueError("a smart crop needs the image")
        box = (box_width, box_height)
        left, top = _most_salient(saliency(image), (width, height), box) if max(spare) else (0, 0)
    return Crop((left, top, left + box_width, top + box_height), size, (width, height))


def size_numbers(crop: Crop) -> tuple[int, int, int, int, int, int]:
    """Height and width of the image, top and left of the crop after resizing, height and width of the result.

    Which of them a base is given, if any, is up to its family: ``Family.size_conditions``.
    """
    left, top, right, bottom = crop.box
    width, height = crop.size
    down, across = round(top * height / (bottom - top)), round(left * width / (right - left))
    return crop.source[1], crop.source[0], down, across, height, width


def lost_fraction(crop: Crop) -> float:
    """Fraction of the image that the crop leaves out, 0 to 1."""
    left, top, right, bottom = crop.box
    return 1 - (right - left) * (bottom - top) / (crop.source[0] * crop.source[1])


def saliency(image: Image.Image) -> np.ndarray:
    """Saliency, float32 (h, w) with sum 1, at most SMART_SIDE pixels per side. Needs no model.

    The mean of two maps: the strength of edges (Sobel), and the spectral residual (Hou and Zhang 2007, "Saliency
    Detection: A Spectral Residual Approach").
    """
    small = image.convert("L")
    small.thumbnail((SMART_SIDE, SMART_SIDE))
    grey = np.asarray(small, dtype=np.float32) / 255
    edges = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    coarse = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    spectrum = np.fft.fft2(coarse)
    level = np.log(np.abs(spectrum) + 1e-6).astype(np.float32)
    residual = level - cv2.blur(level, (3, 3))
    residual_map = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))).astype(np.float32) ** 2
    residual_map = cv2.resize(cv2.GaussianBlur(residual_map, (0, 0), 2.5), small.size, interpolation=cv2.INTER_LINEAR)
    if edges.sum() < 1e-3:  # a single colour
        return np.full(grey.shape, 1 / grey.size, np.float32)
    return np.asarray((edges / edges.sum() + residual_map / residual_map.sum()) / 2, np.float32)


def _most_salient(salient: np.ndarray, source: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Left and top of the box with the most saliency. Only one of them is free; ties go to the centre."""
    places = []
    for axis, whole, side in ((0, source[0], box[0]), (1, source[1], box[1])):
        spare = whole - side
        if spare == 0:
            places.append(0)
            continue
        upto = np.concatenate([[0.0], np.cumsum(salient.sum(axis=axis), dtype=np.float64)])
        grid = np.linspace(0, whole, len(upto))
        starts = np.arange(spare + 1)
        held = np.interp(starts + side, grid, upto) - np.interp(starts, grid, upto)
        held -= CENTRE_PULL * np.abs(starts - spare / 2) / (spare / 2)
        places.append(int(np.argmax(held)))
    return places[0], places[1]


def apply_crop(image: Image.Image, crop: Crop, nearest: bool = False) -> Image.Image:
    """Crops and resizes in one step. ``nearest``: for maps whose values are labels.

    A map may have another resolution than its image; the box is scaled to it.
    """
    across, down = image.width / crop.source[0], image.height / crop.source[1]
    left, top, right, bottom = crop.box
    box = (left * across, top * down, right * across, bottom * down)
    if image.size == crop.size and box == (0, 0, image.width, image.height):
        return image.copy()
    return image.resize(crop.size, Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS, box=box)
