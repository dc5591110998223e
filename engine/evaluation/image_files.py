"""Drawn images on disk: WebP files that carry how they were drawn, and folders that appear only when whole."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from engine.disk.durable import move_into_place
from engine.disk.images import opened
from engine.errors import UserError

TEMPORARY = ".drawing-"
WEBP_QUALITY = 90
_EXIF_FOLDER, _USER_COMMENT = 0x8769, 0x9286
_UNICODE = b"UNICODE\x00"  # EXIF 2.32, 4.6.5: the first eight bytes name the text's coding


def webp(image: np.ndarray, settings: str = "") -> bytes:
    """RGB uint8 (h, w, 3) as WebP, with ``settings`` in its EXIF user comment, where AUTOMATIC1111 looks for them."""
    buffer, exif = io.BytesIO(), Image.Exif()
    if settings:
        exif.get_ifd(_EXIF_FOLDER)[_USER_COMMENT] = _UNICODE + settings.encode("utf-16-be")
    Image.fromarray(image).save(buffer, "WEBP", quality=WEBP_QUALITY, exif=exif)
    return buffer.getvalue()


def settings_in(path: Path) -> str:
    """How an image was drawn, as its file says; empty where it does not. Raises UserError for what is no image."""
    with opened(path) as image:
        comment = image.getexif().get_ifd(_EXIF_FOLDER).get(_USER_COMMENT, b"")
    if not isinstance(comment, bytes) or not comment.startswith(_UNICODE):
        return ""
    return comment.removeprefix(_UNICODE).decode("utf-16-be", errors="replace")


def settings_text(prompt: str, size: tuple[int, int], **facts: object) -> str:
    """One line of facts below the prompt, as AUTOMATIC1111 writes them. ``size``: width and height in pixels."""
    named = {name.replace("_", " ").capitalize(): value for name, value in facts.items()}
    listed = ", ".join(f"{name}: {value}" for name, value in {**named, "Size": f"{size[0]}x{size[1]}"}.items())
    return f"{prompt}\n{listed}"


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Have ``fill`` write into a folder of a temporary name, then put it at ``target``, in place of an older one.

    Raises:
        UserError: the disk is full or may not be written. Whatever ``fill`` raises; nothing is left behind.
    """
    temporary = target.with_name(TEMPORARY + target.name)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        if target.exists():  # a resumed run comes by the same step again
            old = target.with_name(TEMPORARY + "old-" + target.name)
            shutil.rmtree(old, ignore_errors=True)
            target.replace(old)
            shutil.rmtree(old)
        move_into_place(temporary, target)
    except OSError as error:
        raise UserError(
            f"{target.name} could not be written.",
            f"{target.parent}: {error.strerror or error}.",
            "Free some space, or see that the folder may be written.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
