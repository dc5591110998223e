"""What a layout is, and what layouts share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.data.images import EXTENSIONS
from engine.data.samples import Problem

IMAGE_FOLDERS = ("image", "images", "target", "targets")
CONDITION_FOLDERS = ("condition", "conditions", "conditioning_image", "conditioning_images", "source", "sources")
CAPTION_EXTENSIONS = (".txt", ".caption")


@dataclass(frozen=True)
class Found:
    """A picture that was found but not read yet."""

    key: str
    image: Path
    caption: str = ""
    condition: Path | None = None


@dataclass(frozen=True)
class Layout:
    """One way of keeping pictures."""

    name: str
    title: str
    """What was found, in words for the window."""
    find: Callable[[Path, list[Problem]], list[Found] | None]
    """find(folder, problems) -> pictures, or None where the folder is of another layout."""


def subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the names that is a folder here, whatever its case."""
    present = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((present[name] for name in names if name in present), None)


def pictures(folder: Path) -> Iterator[Path]:
    """All pictures below a folder in a stable order; hidden files and linked folders are passed over."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield Path(place) / name


def key(path: Path, folder: Path) -> str:
    """Path relative to the folder, with forward slashes. Raises ValueError for one outside."""
    return path.relative_to(folder).as_posix()


def stem(path: Path, folder: Path) -> str:
    """The key without its extension: what a picture and its map have in common."""
    return path.relative_to(folder).with_suffix("").as_posix()


def caption_file(path: Path) -> Path | None:
    """The caption file beside a picture."""
    return next((file for end in CAPTION_EXTENSIONS if (file := path.with_suffix(end)).is_file()), None)


def caption_beside(path: Path) -> str:
    """What the caption file beside a picture says; empty where there is none."""
    file = caption_file(path)
    return file.read_text(encoding="utf-8-sig", errors="replace").strip() if file else ""


def picture_without_map(path: Path, why: str, try_this: str) -> Problem:
    return Problem(path, "This picture has no condition map.", why, try_this)


def map_without_picture(path: Path, images: str) -> Problem:
    return Problem(
        path,
        "This condition map has no picture.",
        f"There is no file named {path.stem} in {images}.",
        "Add the picture under the map's name, or delete the map.",
    )
