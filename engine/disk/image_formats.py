"""Which image files are read: by their ending or, where that says nothing, by their first bytes. EXIF orientation."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

FORMATS = (
    "PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "PCX", "ICO", "QOI", "SGI", "PSD",
    "TGA",  # the last, since it has no signature
)  # fmt: skip
"""Pillow's names of the formats that are opened. Not those that run a program (PostScript) or hold no image."""

_HEIF = importlib.util.find_spec("pillow_heif") is not None  # an extra that people may install
HEIF_EXTENSIONS = frozenset({".heic", ".heif", ".hif"})
EXTENSIONS = frozenset(
    {
        ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif",
        ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".pcx", ".ico", ".qoi",
        ".sgi", ".psd",
    }
    | (HEIF_EXTENSIONS if _HEIF else frozenset())
)  # fmt: skip
"""Endings of files that are read as images, in lower case."""

UNREAD = {
    **dict.fromkeys(HEIF_EXTENSIONS, "HEIC"),
    ".jxl": "JPEG XL",
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".svg": "SVG",
    ".dds": "DDS",
    ".xcf": "GIMP",
    ".kra": "Krita",
    ".clip": "Clip Studio",
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"), "camera raw"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"), "video"),
    ".npy": "NumPy",
    ".npz": "NumPy",
}
"""Endings of images and videos that are not read, with the format's name."""

SUPPORTED = "PNG, JPEG, WebP, AVIF, BMP, TIFF, GIF, JPEG 2000, TGA and other formats that Pillow reads"
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"qoif", "QOI"),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC",
           b"msf1": "HEIC"}  # fmt: skip
SIGNATURE_BYTES = 32
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20  # bytes; drawing programs keep whole projects in an image's text


def is_image_name(name: str) -> bool:
    """Whether a file of this name is read as an image."""
    return Path(name).suffix.lower() in EXTENSIONS


def format_of(start: bytes) -> str:
    """The image format that a file's first ``SIGNATURE_BYTES`` bytes show, as named in FORMATS or UNREAD, or ""."""
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], "")
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    return next((name for signature, name in _SIGNATURES if start.startswith(signature)), "")


def prepare_heif() -> bool:
    """Let Pillow read HEIC where the package pillow-heif is installed. False: it is not."""
    if _HEIF and "HEIF" not in Image.OPEN:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return _HEIF


def open_image(source: Any) -> Image.Image:
    """``Image.open`` for the formats that are read here."""
    return Image.open(source, formats=(*FORMATS, "HEIF") if prepare_heif() else FORMATS)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8: 1 if there is none, if it makes no sense, or if Pillow has applied it already.

    Nothing else of the block is used: cameras and editors write all kinds of values there.
    """
    if image.format in ("TIFF", "HEIF"):
        return 1  # Pillow turns these while it reads them
    try:
        value = int(str(exif_value(image, _ORIENTATION)).strip("\0 "))
    except ValueError:
        return 1
    return value if value in _TURNS else 1


def exif_value(image: Image.Image, tag: int) -> Any:
    """A value of the EXIF block. None if there is none, or if the block is damaged."""
    try:
        return image.getexif().get(tag)
    except Exception:  # Pillow raises whatever a damaged block leads it to, from KeyError to struct.error
        return None


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says."""
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)
