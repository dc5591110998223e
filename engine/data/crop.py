"""One crop shared by a picture and its condition map, so that the two never drift apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Crop:
    """A box in the picture's pixels (left, top, right, bottom) and the size (width, height) it is brought to."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    source: tuple[int, int]
    """Width and height of the picture that ``box`` belongs to."""


def shared_crop(
    width: int, height: int, resolution: int | tuple[int, int], mode: str = "centre", seed: int | None = None
) -> Crop:
    """The largest box with the target's aspect. ``resolution``: side of a square, or (width, height), in pixels.

    ``mode`` "centre", or "random": the box's place comes from ``seed`` alone, so that a resumed run crops alike.
    """
    if mode not in ("centre", "random"):
        raise ValueError(f"no crop mode {mode!r}; known: centre, random")
    if min(width, height) < 1:
        raise ValueError(f"a picture of {width} x {height} pixels cannot be cropped")
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    scale = min(width / size[0], height / size[1])
    box_width = min(width, max(1, round(size[0] * scale)))
    box_height = min(height, max(1, round(size[1] * scale)))
    spare = (width - box_width, height - box_height)
    if mode == "centre":
        left, top = spare[0] // 2, spare[1] // 2
    else:
        if seed is None:
            raise ValueError("a random crop needs a seed")
        rng = np.random.default_rng(seed)
        left, top = (int(rng.integers(0, s + 1)) for s in spare)
    return Crop((left, top, left + box_width, top + box_height), size, (width, height))


def size_numbers(crop: Crop) -> tuple[int, int, int, int, int, int]:
    """Height and width of the picture, top and left of the crop after resizing, height and width of the result.

    What SDXL is told of a picture; Podell et al. 2023, arXiv 2307.01952, section 2.2.
    """
    left, top, right, bottom = crop.box
    width, height = crop.size
    down, across = round(top * height / (bottom - top)), round(left * width / (right - left))
    return crop.source[1], crop.source[0], down, across, height, width


def apply_crop(image: Image.Image, crop: Crop, nearest: bool = False) -> Image.Image:
    """Crops and resizes in one step. ``nearest`` for maps whose values are labels and must not be mixed.

    A map may have another resolution than its picture: the box is scaled to it.
    """
    across, down = image.width / crop.source[0], image.height / crop.source[1]
    left, top, right, bottom = crop.box
    box = (left * across, top * down, right * across, bottom * down)
    if image.size == crop.size and box == (0, 0, image.width, image.height):
        return image.copy()
    return image.resize(crop.size, Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS, box=box)
