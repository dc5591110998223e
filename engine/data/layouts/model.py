"""The declaration of a folder layout, and functions that layouts share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from engine.data.samples import Problem
from engine.disk.images import EXTENSIONS

IMAGE_FOLDERS = ("image", "images", "target", "targets", "ground_truth")
CONDITION_FOLDERS = (
    "condition",
    "conditions",
    "conditioning",
    "conditioning_image",
    "conditioning_images",
    "control",
    "control_image",
    "control_images",
    "controls",
    "hint",
    "hints",
    "source",
    "sources",
)
CAPTION_EXTENSIONS = (".txt", ".caption")


@dataclass(frozen=True)
class FoundImage:
    """An image that was found but not read yet."""

    key: str
    image: Path
    caption: str | None = None
    """None: it is in the text file beside the image, if there is one, which is read with the image."""
    condition: Path | None = None
    source: str = ""
    """Where it came from, if the layout knows."""


@dataclass(frozen=True)
class FolderLayout:
    """One way of organizing images in a folder."""

    name: str
    title: str
    """Description of what was found, for the page."""
    find: Callable[[Path, list[Problem]], list[FoundImage] | None]
    """find(folder, problems) -> images, or None if the folder has another layout."""


def subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these names that is a folder here, in upper or lower case."""
    with os.scandir(folder) as entries:
        present = {entry.name.lower(): Path(entry.path) for entry in sorted(entries, key=_name) if _is_folder(entry)}
    return next((present[name] for name in names if name in present), None)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a circular link, which is reported when its files are read


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


_SEARCH_CHECK: ContextVar[Callable[[], None]] = ContextVar("search_check", default=lambda: None)
"""Called for every folder that a search enters. It ends the search by raising an exception."""


@contextmanager
def checked_search(check: Callable[[], None]) -> Iterator[None]:
    """Inside this context, ``check`` is called for every folder that a search enters, and can end the search."""
    before = _SEARCH_CHECK.set(check)
    try:
        yield
    finally:
        _SEARCH_CHECK.reset(before)


def image_files(folder: Path, problems: list[Problem] | None = None) -> Iterator[Path]:
    """All images in a folder and its subfolders, in a stable order. See ``files_below``."""
    return files_below(folder, lambda name: Path(name).suffix.lower() in EXTENSIONS, problems)


def files_below(folder: Path, wanted: Callable[[str], bool], problems: list[Problem] | None = None) -> Iterator[Path]:
    """All files in a folder and its subfolders whose names are wanted, in a stable order. Skips hidden files.

    Also skips linked folders, which may be circular, and folders that cannot be opened, and adds both to ``problems``.
    """

    def closed(error: OSError) -> None:
        if problems is not None:
            problems.append(
                Problem(
                    Path(error.filename or folder),
                    f"The folder {Path(error.filename or folder).name} cannot be opened.",
                    f"The system says: {error.strerror}.",
                    "Check its permissions. The images in it were skipped.",
                )
            )

    check = _SEARCH_CHECK.get()
    for place, folders, files in os.walk(folder, onerror=closed):
        check()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if problems is not None:
            problems += [_link(Path(place, name)) for name in folders if (Path(place, name)).is_symlink()]
        for name in sorted(files):
            if not name.startswith(".") and wanted(name):
                yield Path(place) / name


def _link(path: Path) -> Problem:
    return Problem(
        path,
        f"The folder {path.name} is a link and was skipped.",
        "Linked folders may be circular.",
        "Read the folder that it points to as a dataset of its own, or move the images here.",
    )


def key(path: Path, folder: Path) -> str:
    """The path relative to the folder, with forward slashes. Raises ValueError if it is not inside."""
    return path.relative_to(folder).as_posix()


def stem(path: Path, folder: Path) -> str:
    """The key without its extension, which an image and its map have in common."""
    return path.relative_to(folder).with_suffix("").as_posix()


def caption_file(path: Path) -> Path | None:
    """The caption file beside an image, or None."""
    return next((file for end in CAPTION_EXTENSIONS if (file := path.with_suffix(end)).is_file()), None)


def caption_beside(path: Path) -> str:
    """The content of the caption file beside an image. Empty if there is none. OSError if it cannot be read."""
    for end in CAPTION_EXTENSIONS:
        try:
            return path.with_suffix(end).read_text(encoding="utf-8-sig", errors="replace").strip()
        except FileNotFoundError:
            continue
    return ""


# The dataset check recognizes these sentences.
NO_MAP = "This image has no condition map."
NO_IMAGE = "This condition map has no image."


def image_without_map(path: Path, why: str, try_this: str) -> Problem:
    """The problem of an image in a paired dataset without a map."""
    return Problem(path, NO_MAP, why, try_this)


def map_without_image(path: Path, images: str) -> Problem:
    """The problem of a map without an image. ``images``: name of the folder of images."""
    return Problem(
        path,
        NO_IMAGE,
        f"There is no file named {path.stem} in {images}.",
        "Add the image under the map's name, or delete the map.",
    )
