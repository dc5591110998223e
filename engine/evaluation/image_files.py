"""Drawn images on disk: WebP files with their settings inside, and folders that appear only when complete."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from engine.disk.durable import replace_folder
from engine.disk.in_use import clear
from engine.errors import UserError

TEMPORARY = ".drawing-"
WEBP_QUALITY = 90
_EXIF_FOLDER, _USER_COMMENT = 0x8769, 0x9286
_UNICODE = b"UNICODE\x00"  # EXIF 2.32, 4.6.5: the first eight bytes name the encoding of the text


def webp(image: np.ndarray, settings: str = "") -> bytes:
    """Encodes RGB uint8 (h, w, 3) as WebP, with ``settings`` in the EXIF user comment as AUTOMATIC1111 expects them."""
    buffer, exif = io.BytesIO(), Image.Exif()
    if settings:
        exif.get_ifd(_EXIF_FOLDER)[_USER_COMMENT] = _UNICODE + settings.encode("utf-16-be")
    Image.fromarray(image).save(buffer, "WEBP", quality=WEBP_QUALITY, exif=exif)
    return buffer.getvalue()


def settings_text(prompt: str, size: tuple[int, int], **facts: object) -> str:
    """The prompt and, below it, one line of settings in AUTOMATIC1111's format. ``size``: (width, height) in pixels."""
    named = {name.replace("_", " ").capitalize(): value for name, value in facts.items()}
    listed = ", ".join(f"{name}: {value}" for name, value in {**named, "Size": f"{size[0]}x{size[1]}"}.items())
    return f"{prompt}\n{listed}"


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Calls ``fill`` with a temporary folder, then renames that to ``target``, replacing an older one.

    Raises:
        UserError: the disk is full or read-only. Exceptions of ``fill`` pass through. Nothing is left behind.
    """
    temporary = target.with_name(TEMPORARY + target.name)
    clear(temporary)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        replace_folder(temporary, target, aside=target.with_name(TEMPORARY + "old-" + target.name))
    except OSError as error:
        raise UserError(
            f"{target.name} could not be written.",
            f"{target.parent}: {error.strerror or error}.",
            "Free some space, and make sure that the folder is writable.",
        ) from error
    finally:
        clear(temporary)
