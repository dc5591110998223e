"""Reads images safely: limits their size, finds truncated ones, applies EXIF rotation, explains errors."""

from __future__ import annotations

import errno
import hashlib
import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.disk.bit_depth import colour_bits, depth_in, is_deep, read_colour_map, to_bytes
from engine.disk.durable import atomic_write_bytes
from engine.disk.image_formats import (
    EXTENSIONS,
    SIGNATURE_BYTES,
    SUPPORTED,
    UNREAD,
    format_of,
    open_image,
    orientation,
    prepare_heif,
    upright,
)
from engine.disk.transparency import ground_in, on_ground
from engine.errors import UserError

__all__ = ["EXTENSIONS", "Inspected", "load_array", "load_map", "load_rgb", "inspect", "opened", "to_rgb"]

MAX_PIXELS = 100_000_000
MIN_SIDE = 32
LARGE_PIXELS = 16_000_000  # larger images are read one at a time, so that several threads do not fill the memory
_one_large = threading.Lock()
# Applies to every image opened in this process, also by gradio. Pillow raises an error at twice this size.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # Pillow warns from this size on
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # of damaged metadata, which is not needed
_JPEG_END, _JPEG_TAIL = b"\xff\xd9", 1024  # some cameras write data after the end marker
_JPEG_SHRINKS = ((8, 64), (4, 32), (2, 16))  # scale divisor, flag of cv2.IMREAD_REDUCED_COLOR_8, _4, _2
_MAY_HOLD_SEVERAL = frozenset({".gif", ".png", ".apng", ".webp", ".avif", ".tif", ".tiff"})
LFS_POINTER = b"version https://git-lfs"
HTML_STARTS = (b"<html", b"<!doctype", b"<?xml", b"<head", b"<script")


@dataclass(frozen=True)
class Inspected:
    """Facts about an image that was read completely. Sizes are pixels after EXIF rotation."""

    width: int
    height: int
    digest: str
    bytes: int
    mtime_ns: int
    ground: str = ""
    """What its transparent parts become, such as "black". "": it has none."""
    depth: str = ""
    """With more than 8 bits: which, and how it is brought to 8 bits. "": it has no more."""
    is_map: bool = False
    """Read as a condition map, for which ``ground`` and ``depth`` may differ."""


def load_rgb(path: Path | str, at_least: int | None = None, old_ground: bool = False) -> Image.Image:
    """Reads an image as RGB: EXIF rotation applied, transparency and deep grey as in ``to_rgb``.

    ``at_least``: a JPEG may be read at 1/2, 1/4 or 1/8 of its size, as long as its shorter side has at least this many
    pixels, which is several times faster. Raises UserError naming the file, the cause and what to try.
    ``old_ground``: as for ``to_rgb``.
    """
    path = Path(path)
    with opened(path) as image:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        return to_rgb(upright(image), old_ground=old_ground)


def load_map(path: Path | str, old_ground: bool = False) -> Image.Image:
    """Reads a condition map: as ``load_rgb``, with values in real units (millimetres, metres) stretched to 0..255."""
    path = Path(path)
    with opened(path) as image:
        bits = colour_bits(path, image)
        made, _ = read_colour_map(path, bits, orientation(image) != 1)
        return to_rgb(made or upright(image), is_map=True, old_ground=old_ground)


def load_array(path: Path, at_least: int | None = None, old_ground: bool = False) -> np.ndarray:
    """``load_rgb`` as uint8 (h, w, 3), faster for ordinary JPEGs, which most datasets consist of."""
    import cv2

    with opened(path) as image:
        plain = image.format == "JPEG" and image.mode == "RGB" and orientation(image) == 1
        times = 1 if at_least is None else min(image.size) // at_least
    if plain:
        data = np.fromfile(path, np.uint8)  # on Windows OpenCV cannot open paths outside the code page
        if _JPEG_END in data[-_JPEG_TAIL:].tobytes():  # OpenCV would fill a truncated file with grey
            shrink = next((flag for least, flag in _JPEG_SHRINKS if times >= least), 0)
            decoded = cv2.imdecode(data, shrink | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
            if decoded is not None:
                return decoded
    return np.asarray(load_rgb(path, at_least, old_ground))


def to_rgb(image: Image.Image, is_map: bool = False, old_ground: bool = False) -> Image.Image:
    """Converts any Pillow mode to RGB.

    Transparent parts become white, or another grey where what is visible would be lost on white (transparency.py).
    ``old_ground``: only where all that is visible is nearly white, as in datasets of earlier versions.

    Grey with more than 8 bits is scaled as in ``bit_depth.rule``; ``is_map``: values in real units are stretched.
    """
    if is_deep(image):
        return to_bytes(image, is_map).convert("RGB")
    if image.has_transparency_data:
        return on_ground(image, is_map, old_ground)
    return image.convert("RGB")


def inspect(path: Path, min_side: int = MIN_SIDE, is_map: bool = False) -> Inspected:
    """Reads an image completely, to find truncated ones. Raises UserError if it cannot be used."""
    with opened(path) as image:
        width, height = image.size
        bits = colour_bits(path, image)
        if orientation(image) >= 5:
            width, height = height, width
        check_side(path, width, height, min_side)
        image.draft("RGB", (max(1, width // 8), max(1, height // 8)))  # decodes JPEGs several times faster
        with _one_large if width * height > LARGE_PIXELS else nullcontext():
            depth = depth_in(path, image, bits, is_map, orientation(image) != 1)
            image.load()
            ground = ground_in(image, is_map)
        state = path.stat()
        return Inspected(width, height, digest(path), state.st_size, state.st_mtime_ns, ground, depth, is_map)


def has_more(path: Path) -> bool:
    """Whether a file holds more than the image that is read of it: an animation, or several pages."""
    if path.suffix.lower() not in _MAY_HOLD_SEVERAL:
        return False
    try:
        with open_image(path) as image:
            return bool(getattr(image, "is_animated", False))
    except (*_DAMAGED, Image.DecompressionBombError):
        return False  # reading the image reports the cause


def check_side(path: Path, width: int, height: int, min_side: int) -> None:
    """Raises UserError if an image is too small."""
    if min(width, height) < min_side:
        raise UserError(
            f"{path.name} is too small ({width} x {height}).",
            f"Its shorter side must be at least {min_side} pixels.",
            "Use a larger copy of the image, or leave it out.",
        )


def digest(path: Path) -> str:
    """BLAKE2 hash of a file's bytes, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def thumbnail(path: Path, cache_dir: Path, side: int = 256, content: str | None = None) -> Path:
    """Makes a WebP copy of at most ``side`` pixels, once per content. ``content``: the file's digest, if known."""
    target = cache_dir / f"{content or digest(path)}-{side}.webp"
    if not target.exists():
        with opened(path) as image:
            image.draft("RGB", (2 * side, 2 * side))
            small = to_rgb(upright(image))
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=85)
        atomic_write_bytes(target, buffer.getvalue(), unique=True, flushed=False)
    return target


@contextmanager
def opened(path: Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """Opens an image. Any error before the context ends becomes a UserError that explains the cause.

    ``data``: the content of the file, if it is not on the disk. ``path`` is then only its name.
    """
    try:
        with open_image(path if data is None else io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        if path.is_symlink():
            raise UserError(
                f"{path.name} is a broken link.",
                "The file it links to does not exist.",
                "Put the image itself in the folder, or delete the link.",
            ) from error
        raise UserError(
            f"{path.name} is no longer there.", "The file was moved or deleted.", "Read the folder again."
        ) from error
    except PermissionError as error:
        raise UserError(
            f"{path.name} cannot be opened.",
            "This account has no permission to read the file.",
            "Change the file's permissions.",
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path.name} is far too large.",
            f"It has more than {MAX_PIXELS // 1_000_000} million pixels ({error}).",
            "Scale the image down with an image editor, or leave it out.",
        ) from error
    except _DAMAGED as error:
        raise UserError(
            f"{path.name} cannot be read.", _cause(path, error, data), "Replace the file or delete it."
        ) from error


_DAMAGED = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error, LookupError,
            ArithmeticError, AttributeError, TypeError, RuntimeError)  # fmt: skip
"""What Pillow raises for damaged files: whatever their bytes lead it to."""


def _cause(path: Path, error: BaseException, data: bytes | None) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.EIO):
        return {
            errno.ELOOP: "It is a link that leads back to itself.",
            errno.ENAMETOOLONG: "Its name is longer than the system allows.",
            errno.EIO: "The disk could not read it; the disk may be failing.",
        }[error.errno]
    if isinstance(error, MemoryError):
        return "There is not enough memory left for an image of this size."
    try:
        with path.open("rb") if data is None else io.BytesIO(data) as file:
            head = file.read(512)
    except OSError:
        head = b"?"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "The file is empty (zero bytes)."
    if start.startswith(LFS_POINTER):
        return "It is a Git LFS pointer: the image itself was not downloaded. Run git lfs pull in that folder."
    if start.startswith(HTML_STARTS):
        return "It is a web page that was saved under an image's name; the download failed."
    if "truncated" in str(error).lower() or "broken" in str(error).lower():
        return "The end of the file is missing; the download or copy was interrupted."
    if isinstance(error, UnidentifiedImageError):
        found = format_of(head[:SIGNATURE_BYTES]) or UNREAD.get(path.suffix.lower(), "")
        if found == "HEIC" and not prepare_heif():
            return "It is a HEIC file, as saved by phones: save it as JPEG, or install the package pillow-heif."
        if found in UNREAD.values() and found != "HEIC":
            return f"It is a {found} file, which this app cannot read; save it as PNG or JPEG."
        return f"It is not an image in a supported format ({SUPPORTED})."
    return f"The file is damaged ({error})."
