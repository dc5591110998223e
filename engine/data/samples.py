"""What a dataset is made of: samples, and the problems found on the way to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One training image with its caption and, in paired sets, its condition map."""

    key: str
    """Path of the image relative to the source folder, with forward slashes; unique in a dataset."""
    image: Path
    caption: str
    condition: Path | None
    """The map that came with the image; maps that the app makes are found by ``Dataset.condition_path``."""
    width: int
    """Pixels, after EXIF rotation."""
    height: int
    digest: str = ""
    """Hash of the image's file."""
    condition_digest: str = ""
    bytes: int = 0
    mtime_ns: int = 0
    source: str = ""
    """Where the image came from (an address, a row of a dataset); empty: it is a file of the user's own."""
    status: str = "ready"
    """``ready`` for training; other words are of those who set them, and images so marked are still listed."""


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used. The sentences are shown to the user as they are."""

    path: Path
    what: str
    why: str
    try_this: str
