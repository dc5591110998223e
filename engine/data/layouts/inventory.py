"""All files of a folder by kind, found once: what the layouts choose from, and what has to be accounted for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from engine.data.samples import Problem
from engine.disk.image_formats import FORMATS, SIGNATURE_BYTES, UNREAD, format_of, is_image_name

TEXTS = frozenset({".txt", ".caption", ".captions", ".cap", ".text", ".prompt"})
LISTS = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".json1"})
ARCHIVES = frozenset({".tar", ".tgz", ".gz", ".zip", ".7z", ".rar", ".parquet", ".arrow"})
_NO_CAPTIONS = frozenset({"readme.txt", "license.txt", "requirements.txt", "robots.txt"})
_KNOWN_OTHERS = frozenset(
    {
        ".md", ".py", ".sh", ".bat", ".ps1", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".xml", ".html", ".htm", ".log",
        ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".db", ".sqlite", ".safetensors", ".ckpt", ".pt", ".pth", ".bin",
        ".onnx", ".lock", ".tmp", ".part", ".crdownload", ".url", ".lnk",
    }
)  # fmt: skip
"""Endings of files that cannot be images, which are not opened to find out."""


@dataclass
class Inventory:
    """The files below a folder. Hidden files are only counted."""

    folder: Path
    images: list[Path] = field(default_factory=list)
    """In a stable order, of all kinds that are read: by their ending, or by their content if that says nothing."""
    texts: list[Path] = field(default_factory=list)
    lists: list[Path] = field(default_factory=list)
    archives: list[Path] = field(default_factory=list)
    unread: dict[str, list[Path]] = field(default_factory=dict)
    """Images and videos in formats that are not read, by the format's name."""
    others: list[Path] = field(default_factory=list)
    hidden: int = 0

    @property
    def files(self) -> int:
        """The number of files that are not hidden."""
        unread = sum(map(len, self.unread.values()))
        return sum(map(len, (self.images, self.texts, self.lists, self.archives, self.others))) + unread


def take_inventory(folder: Path, problems: list[Problem]) -> Inventory:
    """Lists all files below a folder. Links and closed folders are added to ``problems``."""
    found = Inventory(folder)

    def count_hidden(number: int) -> None:
        found.hidden += number

    for path in files_below(folder, lambda name: True, problems, count_hidden):
        ending = path.suffix.lower()
        if is_image_name(path.name):
            found.images.append(path)
        elif ending in TEXTS and path.name.lower() not in _NO_CAPTIONS:
            found.texts.append(path)
        elif ending in LISTS:
            found.lists.append(path)
        elif ending in ARCHIVES:
            found.archives.append(path)
        elif ending in UNREAD:
            found.unread.setdefault(UNREAD[ending], []).append(path)
        elif ending in (".txt", *_KNOWN_OTHERS):
            found.others.append(path)
        else:
            _by_content(path, found)
    return found


def _by_content(path: Path, found: Inventory) -> None:
    """Sorts in a file whose ending says nothing."""
    try:
        with path.open("rb") as file:
            kind = format_of(file.read(SIGNATURE_BYTES))
    except OSError:
        kind = ""  # accounted for as another file
    if kind in FORMATS:
        found.images.append(path)
    elif kind:
        found.unread.setdefault(kind, []).append(path)
    else:
        found.others.append(path)


def below(paths: Iterable[Path], folder: Path) -> Iterator[Path]:
    """Those of the paths that lie in a folder or below it."""
    prefix = folder.parts
    return (path for path in paths if path.parts[: len(prefix)] == prefix)


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
    return files_below(folder, is_image_name, problems)


def files_below(
    folder: Path,
    wanted: Callable[[str], bool],
    problems: list[Problem] | None = None,
    on_hidden: Callable[[int], None] = lambda count: None,
) -> Iterator[Path]:
    """All files in a folder and its subfolders whose names are wanted, in a stable order.

    Skips hidden files, of which ``on_hidden`` gets the numbers. Also skips linked folders, which may be circular, and
    folders that cannot be opened, and adds both to ``problems``.
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
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        if problems is not None:
            problems += [_link(Path(place, name)) for name in folders if (Path(place, name)).is_symlink()]
        on_hidden(sum(map(is_hidden, files)))
        for name in sorted(files):
            if not is_hidden(name) and wanted(name):
                yield Path(place) / name


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or made by the system: by its name, as the system's own programs say."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN")


def _link(path: Path) -> Problem:
    return Problem(
        path,
        f"The folder {path.name} is a link and was skipped.",
        "Linked folders may be circular.",
        "Read the folder that it points to as a dataset of its own, or move the images here.",
    )
