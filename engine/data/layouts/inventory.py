"""All files of a folder by kind, found once: what the layouts choose from, and what has to be accounted for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from engine.data.samples import Problem
from engine.disk.image_formats import FORMATS, SIGNATURE_BYTES, UNREAD, format_of, is_image_name

TEXTS = frozenset({".txt", ".caption", ".captions", ".cap", ".text", ".prompt", ".md", ".tags"})
LISTS = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".json1", ".json5", ".jsonc"})
UNREAD_ARCHIVES = frozenset({".7z", ".rar", ".zst", ".lz4"})
"""Archives that this app does not unpack."""
ARCHIVES = UNREAD_ARCHIVES | {
    ".tar", ".tgz", ".gz", ".tbz2", ".bz2", ".txz", ".xz", ".zip", ".parquet", ".arrow",
}  # fmt: skip
_NO_CAPTIONS = frozenset(
    f"{stem}{ending}"
    for stem in ("readme", "license", "requirements", "robots", "changelog", "contributing")
    for ending in (".txt", ".md")
)
_KNOWN_OTHERS = frozenset(
    {
        ".py", ".sh", ".bat", ".ps1", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".xml", ".html", ".htm", ".log",
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
    """In a stable order, of all supported kinds: by their ending, or by their content if the ending says nothing."""
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

    def images_below(self, folder: Path) -> list[Path]:
        """The images in a folder and its folders. Quick, however many images lie elsewhere."""
        first, end = self._places.get(folder, (0, 0))
        return self.images[first:end]

    def lists_in(self, folder: Path) -> list[Path]:
        """The lists directly in a folder, without the .json files of single images."""
        return self._lists.get(folder, [])

    def folders_in(self, folder: Path) -> list[Path]:
        """The folders directly in a folder that have lists."""
        return self._folders_with_lists.get(folder, [])

    @cached_property
    def _places(self) -> dict[Path, tuple[int, int]]:
        """First and last index of the images below each folder; they are listed folder by folder."""
        found: dict[Path, tuple[int, int]] = {}
        number = 0
        while number < len(self.images):
            parent, first = self.images[number].parent, number
            while number < len(self.images) and self.images[number].parent == parent:
                number += 1
            for folder in (parent, *parent.parents):
                found[folder] = (found[folder][0] if folder in found else first, number)
                if folder == self.folder:
                    break
        return found

    @cached_property
    def _lists(self) -> dict[Path, list[Path]]:
        sidecars = {path.with_suffix("") for path in self.images}
        found: dict[Path, list[Path]] = {}
        for path in self.lists:
            if path.suffix.lower() != ".json" or path.with_suffix("") not in sidecars:
                found.setdefault(path.parent, []).append(path)
        return found

    @cached_property
    def _folders_with_lists(self) -> dict[Path, list[Path]]:
        found: dict[Path, list[Path]] = {}
        for folder in self._lists:
            found.setdefault(folder.parent, []).append(folder)
        return found


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
        elif ending in TEXTS or ending in _KNOWN_OTHERS:
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
    """Those of the paths that lie in a folder or below it. ``Inventory.images_below`` is quicker for its own images."""
    prefix = folder.parts
    return (path for path in paths if path.parts[: len(prefix)] == prefix)


_SEARCH_CHECK: ContextVar[Callable[[], None]] = ContextVar("search_check", default=lambda: None)
"""Called for every folder that a search enters, and while its layout is recognized. It may raise an exception."""


def check_search() -> None:
    """Raises an exception if the search was cancelled, or takes too long."""
    _SEARCH_CHECK.get()()


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
    waiting = [folder]
    while waiting:
        check()
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            closed(error)
            continue
        shown = [entry for entry in found if not is_hidden(entry.name)]
        folders = [entry for entry in shown if _is_folder(entry)]
        files = [entry for entry in shown if not _is_folder(entry)]
        on_hidden(sum(is_hidden(entry.name) and not _is_folder(entry) for entry in found))
        if problems is not None:
            problems += [_link(Path(entry.path)) for entry in folders if entry.is_symlink()]
        for entry in files:
            if wanted(entry.name):
                if _is_pipe(entry):
                    if problems is not None:
                        problems.append(_no_file(Path(entry.path)))
                    continue
                yield place / entry.name
        waiting += [place / entry.name for entry in reversed(folders) if not entry.is_symlink()]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # for example a link that leads back to itself


def _is_pipe(entry: os.DirEntry[str]) -> bool:
    """Whether this is a pipe, a socket or a device, which may never end when it is read. A broken link is none."""
    try:
        return not entry.is_file() and Path(entry.path).exists()
    except OSError:
        return False


def _no_file(path: Path) -> Problem:
    return Problem(
        path,
        f"{path.name} is not a regular file.",
        "It is a pipe, a socket or a device.",
        "There is nothing to do: it was skipped.",
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or made by the system: by its name, as the system's own programs say."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN")


def _link(path: Path) -> Problem:
    return Problem(
        path,
        f"The folder {path.name} is a link and was skipped.",
        "Linked folders may lead back to themselves.",
        "Read the folder that it points to as a separate dataset, or move the images here.",
    )
