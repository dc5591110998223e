"""Reads the settings that a preview image carries, as AUTOMATIC1111 does."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def settings_in(path: Path) -> str:
    """The text of the EXIF user comment (EXIF 2.32, 4.6.5)."""
    with Image.open(path) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment.startswith(b"UNICODE\x00")
    return comment.removeprefix(b"UNICODE\x00").decode("utf-16-be")
