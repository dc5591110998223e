"""Images that hold two side by side, the image and its condition map, as pix2pix wants them (A|B in one file)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from engine.data.layouts.inventory import check_search
from engine.data.layouts.looks import SAMPLES, evenly, has_drawn_pixels
from engine.data.layouts.model import FoundImage, Part, Reading
from engine.data.layouts.words import IMAGE, MAP
from engine.disk.images import load_rgb, opened
from engine.errors import UserError

LEFT, RIGHT = "left half", "right half"
"""The names of the parts."""
_LOOKED_AT = 24
_SIDE = 64
_SAME = 8.0  # mean difference of the halves' pixels, of 255, below which they are taken for the same image


def read_halves(images: list[FoundImage], reading: Reading) -> list[FoundImage]:
    """The images with the roles of their halves, if these are to be read as image and map; else the images as they are.

    The user is asked wherever all images are twice as wide as high and their halves differ. Preselected is what the
    halves look like: a map if one is drawn and the other is not, else parts of one image.
    """
    if len(images) < 2 or any(item.condition for item in images) or not _asked_or_wide(images, reading):
        return images
    guess = _guess([item.image for item in images])
    if guess is None and not _is_asked(reading):
        return images
    roles = tuple(reading.role(name, role) for name, role in zip((LEFT, RIGHT), guess or (IMAGE, IMAGE), strict=True))
    for name, role in zip((LEFT, RIGHT), roles, strict=True):
        reading.add(Part(name, "half", role, len(images), (str(images[0].image),)))
    cut = IMAGE in roles and set(roles) != {IMAGE}
    if not _is_asked(reading):
        what = "Each image is twice as wide as it is high"
        if cut:
            drawn = LEFT if roles[0] == MAP else RIGHT
            reading.doubts.append(
                f"{what}, and the {drawn} looks like a condition map of the other half: each one is cut into an "
                "image and its map."
            )
        else:
            reading.doubts.append(
                f"{what}. If each contains an image and its condition map side by side, say which half is which; "
                "otherwise they are read whole."
            )
    return [replace(item, halves=roles) for item in images] if cut else images


def is_wide(path: Path) -> bool:
    """Whether an image is twice as wide as high. Raises UserError if it cannot be read."""
    with opened(path) as image:
        return image.width == 2 * image.height


def cut(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The left and the right half."""
    middle = image.width // 2
    return image.crop((0, 0, middle, image.height)), image.crop((middle, 0, 2 * middle, image.height))


def _is_asked(reading: Reading) -> bool:
    return LEFT in reading.asked or RIGHT in reading.asked


def _asked_or_wide(images: Sequence[FoundImage], reading: Reading) -> bool:
    if _is_asked(reading):
        return True
    if reading.asked:
        return False
    check_search()
    try:
        return all(is_wide(item.image) for item in evenly(images, _LOOKED_AT))
    except UserError:
        return False  # reading the folder reports it


def _guess(paths: Sequence[Path]) -> tuple[str, str] | None:
    """The roles of the halves by what a few images look like. None: the halves hold the same, or cannot be read."""
    votes = []
    for path in evenly(paths, SAMPLES):
        try:
            whole = load_rgb(path, at_least=_SIDE).resize((2 * _SIDE, _SIDE), resample=0)
        except UserError:
            continue
        left, right = (np.asarray(half).astype(np.int16) for half in cut(whole))
        if np.abs(left - right).mean() < _SAME:
            return None
        votes.append((has_drawn_pixels(left), has_drawn_pixels(right)))
    if not votes:
        return None
    for drawn, roles in (((True, False), (MAP, IMAGE)), ((False, True), (IMAGE, MAP))):
        if votes.count(drawn) > len(votes) / 2:
            return roles
    return IMAGE, IMAGE
