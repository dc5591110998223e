"""The declaration of an image source, and functions that sources share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from engine.data.import_config import ImportConfig
from engine.data.layouts.inventory import files_below, image_files
from engine.disk.images import LFS_POINTER
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress


@dataclass
class FetchResult:
    """The result of a source. The page shows the sentences unchanged."""

    new: int = 0
    present: int = 0
    """Number of images that existed already, from an earlier attempt."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason -> number of skipped images."""
    notes: list[str] = field(default_factory=list)
    used: list[Path] | None = None
    """Files of a source that is a folder which were unpacked or copied. None: all of them, or it is no folder."""

    def skip(self, reason: str, count: int = 1) -> None:
        """Count skipped images by the reason that the user reads."""
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    def sentences(self) -> list[str]:
        """The notes, and the most frequent reasons for skipped images."""
        reasons = sorted(self.skipped.items(), key=lambda item: -item[1])
        return [*self.notes, *(f"{count:,} skipped: {reason}." for reason, count in reasons[:10])]


@dataclass(frozen=True)
class ImageSource:
    """A kind of source.

    ``fits(place)`` only looks at names and headers. ``fetch(place, folder, config, progress, token)`` fills a folder
    with images, and continues where it stopped when it is called again.
    """

    name: str
    title: str
    """Description of the source, for the page."""
    fits: Callable[[str], bool]
    fetch: Callable[[str, Path, ImportConfig, OnProgress, CancelToken], FetchResult]


ACCESSORIES = 5
"""Up to this many images next to archives or tables are treated as previews of these, if they have no captions."""


def files_of(place: str, endings: tuple[str, ...]) -> list[Path]:
    """The file itself, or all files with these endings in a folder without images of its own. Sorted."""
    path = Path(place).expanduser()
    if path.is_file():
        return [path] if path.name.lower().endswith(endings) else []
    if not path.is_dir():
        return []
    images = list(islice(image_files(path), ACCESSORIES + 1))
    if len(images) > ACCESSORIES or any(image.with_suffix(".txt").exists() for image in images):
        return []
    found = sorted(p for p in files_below(path, lambda name: name.lower().endswith(endings)) if p.is_file())
    tables = (".csv", ".tsv")  # beside images, these name them
    return [] if images and found and all(p.name.lower().endswith(tables) for p in found) else found


def refuse_pointer(path: Path) -> None:
    """Raise UserError if an archive or table is only a pointer of Git LFS, as a clone without git-lfs has."""
    with path.open("rb") as file:
        pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    if pointer:
        raise UserError(
            f"{path.name} was not downloaded.",
            "It is a Git LFS pointer instead of the file itself.",
            "Run git lfs pull in that folder, or download the file itself.",
        )


def require_package(module: str, reason: str) -> Any:
    """Imports an optional package. Raises UserError with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"The package {module} is not installed.",
            f"It is needed {reason} ({error}).",
            f"Run install.sh or install.bat again, or: python -m pip install {module}",
        ) from error
