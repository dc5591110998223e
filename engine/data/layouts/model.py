"""What a layout is, and what layouts share."""

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
    "condition", "conditions", "conditioning", "conditioning_image", "conditioning_images", "control",
    "control_image", "control_images", "controls", "hint", "hints", "source", "sources",
)  # fmt: skip
CAPTION_EXTENSIONS = (".txt", ".caption")


@dataclass(frozen=True)
class Found:
    """An image that was found but not read yet."""

    key: str
    image: Path
    caption: str | None = None
    """None: the text file beside the image, if there is one, has it; it is read with the image."""
    condition: Path | None = None
    source: str = ""
    """Where it came from, if its layout tells."""


@dataclass(frozen=True)
class Layout:
    """One way of keeping images."""

    name: str
    title: str
    """What was found, in words for the window."""
    find: Callable[[Path, list[Problem]], list[Found] | None]
    """find(folder, problems) -> images, or None where the folder is of another layout."""


def subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the names that is a folder here, whatever its case."""
    with os.scandir(folder) as entries:
        present = {entry.name.lower(): Path(entry.path) for entry in sorted(entries, key=_name) if _is_folder(entry)}
    return next((present[name] for name in names if name in present), None)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads back to itself; whoever reads its files will tell


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


_PATIENCE: ContextVar[Callable[[], None]] = ContextVar("patience", default=lambda: None)


@contextmanager
def patience(ask: Callable[[], None]) -> Iterator[None]:
    """While this is open, every folder that is looked into asks first; what ``ask`` raises ends the search."""
    before = _PATIENCE.set(ask)
    try:
        yield
    finally:
        _PATIENCE.reset(before)


def image_files(folder: Path, problems: list[Problem] | None = None) -> Iterator[Path]:
    """All images below a folder in a stable order; hidden files are passed over. See ``files_below``."""
    return files_below(folder, lambda name: Path(name).suffix.lower() in EXTENSIONS, problems)


def files_below(folder: Path, wanted: Callable[[str], bool], problems: list[Problem] | None = None) -> Iterator[Path]:
    """All files of wanted names below a folder in a stable order; hidden ones are passed over.

    Linked folders are passed over, too (they may lead round in a circle), and so are those that cannot be opened;
    both are told in ``problems``.
    """

    def closed(error: OSError) -> None:
        if problems is not None:
            problems.append(
                Problem(
                    Path(error.filename or folder),
                    f"The folder {Path(error.filename or folder).name} cannot be opened.",
                    f"The system says: {error.strerror}.",
                    "Check its permissions; the images in it were passed over.",
                )
            )

    ask = _PATIENCE.get()
    for place, folders, files in os.walk(folder, onerror=closed):
        ask()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if problems is not None:
            problems += [_link(Path(place, name)) for name in folders if (Path(place, name)).is_symlink()]
        for name in sorted(files):
            if not name.startswith(".") and wanted(name):
                yield Path(place) / name


def _link(path: Path) -> Problem:
    return Problem(
        path,
        f"The folder {path.name} is a link and was passed over.",
        "A linked folder may lead round in a circle.",
        "Choose the folder that it leads to as a dataset of its own, or move the images here.",
    )


def key(path: Path, folder: Path) -> str:
    """Path relative to the folder, with forward slashes. Raises ValueError for one outside."""
    return path.relative_to(folder).as_posix()


def stem(path: Path, folder: Path) -> str:
    """The key without its extension: what an image and its map have in common."""
    return path.relative_to(folder).with_suffix("").as_posix()


def caption_file(path: Path) -> Path | None:
    """The caption file beside an image."""
    return next((file for end in CAPTION_EXTENSIONS if (file := path.with_suffix(end)).is_file()), None)


def caption_beside(path: Path) -> str:
    """What the caption file beside an image says; empty where there is none. Raises OSError: it cannot be read."""
    for end in CAPTION_EXTENSIONS:
        try:
            return path.with_suffix(end).read_text(encoding="utf-8-sig", errors="replace").strip()
        except FileNotFoundError:
            continue
    return ""


def picture_without_map(path: Path, why: str, try_this: str) -> Problem:
    return Problem(path, "This image has no condition map.", why, try_this)


def map_without_picture(path: Path, images: str) -> Problem:
    return Problem(
        path,
        "This condition map has no image.",
        f"There is no file named {path.stem} in {images}.",
        "Add the image under the map's name, or delete the map.",
    )
