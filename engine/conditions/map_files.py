"""A map on disk: lossless, and it says itself what it was made by."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.data.images import replace_bytes

_DESCRIPTION = 0x010E  # EXIF's ImageDescription
_EFFORT = {"method": 0, "quality": 25}  # of WebP; more takes twice the time for a seventh of the size


def write(path: Path, map: np.ndarray, type: str, parameters: dict[str, Any]) -> None:
    """RGB uint8 (h, w, 3) as WebP or PNG, by the path's ending, with the type and parameters in its EXIF."""
    image = Image.fromarray(map)
    exif = Image.Exif()
    exif[_DESCRIPTION] = json.dumps({"condition": type, **parameters})
    buffer = io.BytesIO()
    if path.suffix == ".webp":
        image.save(buffer, "WEBP", lossless=True, exif=exif, **_EFFORT)
    else:
        image.save(buffer, "PNG", compress_level=1, exif=exif)
    replace_bytes(path, buffer.getvalue())


def made_by(path: Path) -> dict[str, Any] | None:
    """{"condition": type, parameter: value, ...} of a map that the app made; None for any other picture."""
    with Image.open(path) as image:
        text = image.getexif().get(_DESCRIPTION, "")
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return None
    return found if isinstance(found, dict) and "condition" in found else None
