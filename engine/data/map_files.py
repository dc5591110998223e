"""Condition maps on disk: lossless files that record how they were made."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from engine.disk.durable import atomic_write_bytes
from engine.disk.image_formats import exif_value
from engine.disk.images import opened

_DESCRIPTION = 0x010E  # EXIF's ImageDescription
_EFFORT = {"method": 0, "quality": 25}  # for WebP; more effort takes twice the time for 1/7 less size
_ONE_BIT = (cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
"""Maps of lines are long runs of black: run-length encoding is smaller and faster than a search for repetitions."""
_HEADER = 33  # bytes of a PNG's signature and first chunk
_EXIF_START = b"Exif\0\0"  # precedes the EXIF data in a JPEG, but not in a PNG


def write(path: Path, map: np.ndarray, type: str, parameters: dict[str, Any], two_level: bool = False) -> None:
    """Writes RGB uint8 (h, w, 3) as WebP or PNG, by the path's extension, with type and parameters in the EXIF.

    ``two_level``: the map is black and white (0 and 255). A PNG then has one bit per pixel.
    """
    exif = Image.Exif()
    exif[_DESCRIPTION] = json.dumps({"condition": type, **parameters})
    if two_level and path.suffix == ".png":
        atomic_write_bytes(path, _one_bit(map, exif.tobytes().removeprefix(_EXIF_START)), unique=True, flushed=False)
        return
    buffer = io.BytesIO()
    if path.suffix == ".webp":
        Image.fromarray(map).save(buffer, "WEBP", lossless=True, exif=exif, **_EFFORT)
    else:
        Image.fromarray(map).save(buffer, "PNG", compress_level=1, exif=exif)
    atomic_write_bytes(path, buffer.getvalue(), unique=True, flushed=False)


def _one_bit(map: np.ndarray, exif: bytes) -> bytes:
    """Encodes the first channel as PNG. Raises ValueError if there are other values than 0 and 255."""
    grey = cv2.extractChannel(map, 0)
    if cv2.countNonZero(grey) != cv2.countNonZero(cv2.compare(grey, 255, cv2.CMP_EQ)):
        raise ValueError("its map has values other than black and white")
    plain = cv2.imencode(".png", grey, _ONE_BIT)[1].tobytes()
    body = b"eXIf" + exif
    return plain[:_HEADER] + struct.pack(">I", len(exif)) + body + struct.pack(">I", zlib.crc32(body)) + plain[_HEADER:]


def made_by(path: Path) -> dict[str, Any] | None:
    """{"condition": type, parameter: value, ...} of a map that the app made. None for any other image."""
    with opened(path) as image:
        text = exif_value(image, _DESCRIPTION)
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return None
    return found if isinstance(found, dict) and "condition" in found else None
