"""Images with more than 8 bits a channel: how they are brought to 0..255, and the words for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

_KEPT = "values up to 255, which stay as they are"
_LARGEST = "each stretched so that its largest value becomes 255"
_HEAD_BYTES = 4096
_JPEG2000_SIZE = b"\xff\x4f\xff\x51"  # start of the codestream, and of the segment with the sizes
_JPEG2000_BITS = 42  # offset of the first channel's bits
_AVIF_BITS = b"pixi"  # the box with the bits of each channel


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey of 16 bits, 32 bits or floats, as Pillow has opened it."""
    return image.mode.startswith("I") or image.mode == "F"


def to_bytes(image: Image.Image, is_map: bool) -> Image.Image:
    """Deep grey as 8-bit grey by ``rule``: NaN and infinite values count as 0, others are clipped to 0..255."""
    values = _values(image)
    return Image.fromarray(_scaled(values, rule(values, image.mode == "F", is_map)[0]))


def colour_bits(path: Path, image: Image.Image) -> int:
    """Bits a channel of a colour image (or grey with transparency) that Pillow has opened, but not loaded yet.

    Pillow reads such images as 8 bits a channel, and keeps the highest ones.
    """
    tiles = getattr(image, "tile", None)  # what Pillow is going to decode; none is left after loading
    if is_deep(image) or not tiles:
        return 8
    arguments = tiles[0].args
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    if isinstance(first, str) and ";16" in first:
        return 16
    if image.format == "PPM":
        return 16 if isinstance(arguments, tuple) and isinstance(arguments[-1], int) and arguments[-1] > 255 else 8
    if image.format not in ("JPEG2000", "AVIF", "HEIF"):
        return 8
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if image.format == "JPEG2000":
        at = head.find(_JPEG2000_SIZE)
        return (head[at + _JPEG2000_BITS] & 0x7F) + 1 if 0 <= at < len(head) - _JPEG2000_BITS else 8
    at = head.find(_AVIF_BITS) + 9  # after the box's name, version, flags and number of channels
    return head[at] if 9 <= at < len(head) else 8


def read_colour_map(path: Path, bits: int, turned: bool) -> tuple[Image.Image | None, str]:
    """A colour map with more than 8 bits a channel as 8 bits by ``rule``, and the words for it: "" if it has no more.

    The image is None where only Pillow can read the file. ``bits``: from ``colour_bits``. ``turned``: it has an EXIF
    orientation, which only Pillow obeys.
    """
    if bits <= 8:
        return None, ""
    values = None if turned else _all_bits(path)
    if values is None:
        return None, _upper(bits)
    colours = values[..., :3]
    factor, words = rule(colours, False, True)
    alpha = _scaled(values[..., 3:], 1 / 257)
    made = np.concatenate([_scaled(colours, factor), alpha], axis=2)
    return Image.fromarray(made), f"in {bits} bits a channel, {words}"


def depth_in(path: Path, image: Image.Image, bits: int, is_map: bool, turned: bool) -> str:
    """What an image with more than 8 bits is, and how it becomes 8 bits, such as "in 16 bits, divided by 257".

    "": it has no more. ``bits`` and ``turned``: as for ``read_colour_map``.
    """
    if is_deep(image):
        floats = image.mode == "F"
        kind = "of floats" if floats else "in 16 bits" if image.mode.startswith("I;16") else "in 32 bits"
        return f"{kind}, {rule(_values(image), floats, is_map)[1]}"
    if is_map:
        return read_colour_map(path, bits, turned)[1]
    return _upper(bits) if bits > 8 else ""


def _upper(bits: int) -> str:
    return f"in {bits} bits a channel, of which the upper 8 are used"


def rule(values: np.ndarray, floats: bool, stretch: bool) -> tuple[float, str]:
    """The factor that brings values to 0..255, and the words for it.

    - Integers up to 255 stay, as labels do; others are divided by 257.
    - Floats up to 1 are multiplied by 255; others count as 0..255.
    - ``stretch``: values in real units, which would come out almost black or white (integers that use less than half
      of 16 bits, floats that are no whole numbers up to 255), are scaled so that the largest becomes 255. So are
      integers of more than 16 bits.
    """
    top = float(values.max(initial=0.0))
    if floats:
        if 0 < top <= 1:
            return 255.0, "multiplied by 255 since they are at most 1"
        in_units = top > 255 or not np.array_equal(values, np.round(values))
        return (255 / top, _LARGEST) if stretch and top > 1 and in_units else (1.0, _KEPT)
    if top <= 255:
        return 1.0, _KEPT
    if top > 65_535 or (stretch and top <= 32_767):
        return 255 / top, _LARGEST
    return 1 / 257, "divided by 257 (65,535 becomes 255)"


def _all_bits(path: Path) -> np.ndarray | None:
    """All bits of a colour image: RGB or RGBA uint16 (h, w, 3 or 4). None if OpenCV cannot read it like this."""
    import cv2

    data = np.fromfile(path, np.uint8)  # on Windows OpenCV cannot open paths outside the code page
    read = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if read is None or read.dtype != np.uint16 or read.ndim != 3 or read.shape[2] not in (3, 4):
        return None
    return np.ascontiguousarray(read[..., [2, 1, 0, 3][: read.shape[2]]])


def _scaled(values: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(np.round(values * factor), 0, 255).astype(np.uint8)


def _values(image: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
