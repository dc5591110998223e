"""What a dataset is made of: samples, and the problems found on the way to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, label)``."""


class CancelToken(Protocol):
    """The part of a job's token that long loops need."""

    def raise_if_cancelled(self) -> None: ...


@dataclass(frozen=True)
class Sample:
    """One training picture with its caption and, in paired sets, its condition map."""

    key: str
    """Path of the picture relative to the source folder, with forward slashes; unique in a dataset."""
    image: Path
    caption: str
    condition: Path | None
    """The map that came with the picture; maps that the app makes are found by ``Dataset.condition_path``."""
    width: int
    """Pixels, after EXIF rotation."""
    height: int
    digest: str = ""
    """Hash of the picture's file."""
    condition_digest: str = ""
    bytes: int = 0
    mtime_ns: int = 0
    source: str = ""
    """Where the picture came from (an address, a row of a dataset); empty: it is a file of the user's own."""
    status: str = "ready"
    """``ready`` for training; other words are of those who set them, and pictures so marked are still listed."""


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used. The sentences are shown to the user as they are."""

    path: Path
    what: str
    why: str
    try_this: str
