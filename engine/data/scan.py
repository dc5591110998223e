"""Reads a folder of images into samples and problems. Writes nothing."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engine.conditions import registry
from engine.data.account import Account, Bookkeeper
from engine.data.layouts import ORDER, FolderLayout, FoundImage, Reading, recognise
from engine.data.layouts.listed import METADATA
from engine.data.layouts.texts import caption_in, is_numbers
from engine.data.layouts.trainer_configs.files import is_config
from engine.data.samples import Problem, Sample
from engine.disk.image_formats import SUPPORTED
from engine.disk.images import MIN_SIDE, Inspected, check_side, inspect
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress

__all__ = ["CONDITION_NOTE", "LAYOUTS", "METADATA", "ScanReport", "scan_folder"]

CONDITION_NOTE = "condition.json"
"""Optional file beside ready-made maps: {"type": NAME, "parameters": {...}} says how they were made."""

LAYOUTS = {layout.name: layout.title for layout in ORDER}


@dataclass(frozen=True)
class ScanReport:
    """The content of a folder. ``layout`` is a key of LAYOUTS."""

    samples: list[Sample]
    problems: list[Problem]
    layout: str
    source: Path
    condition_type: str | None = None
    """For ready-made maps: the type in condition.json, or else "own". None if there are no maps."""
    condition_parameters: dict[str, Any] = field(default_factory=dict)
    account: Account | None = None
    """What every file was used as."""
    notes: list[str] = field(default_factory=list)
    """What else the user should know, as sentences."""
    doubts: list[str] = field(default_factory=list)
    """What the user should decide, as sentences."""

    @property
    def paired(self) -> bool:
        return self.condition_type is not None

    @property
    def captioned(self) -> int:
        """Number of samples with a caption that is not empty."""
        return sum(bool(sample.caption) for sample in self.samples)


class ReadCache(Protocol):
    """Remembers facts about files from earlier scans. Only called in the caller's thread."""

    def known(self, path: Path, size: int, mtime_ns: int) -> Inspected | None: ...
    def remember(self, path: Path, seen: Inspected) -> None: ...


@dataclass(frozen=True)
class RecognizedFolder:
    """A folder whose layout was recognized, and whose images were not read yet."""

    folder: Path
    layout: FolderLayout
    found: list[FoundImage]
    reading: Reading
    """Roles, doubts and what was left out."""

    @property
    def problems(self) -> list[Problem]:
        return self.reading.problems

    def note_file(self) -> list[Path]:
        """The file that says how the maps were made, if there is one."""
        note = self.folder / CONDITION_NOTE
        return [note] if note.is_file() else []

    def condition(self, paired: bool) -> tuple[str | None, dict[str, Any]]:
        """Type and parameters of the maps that came with the images, if any. A damaged note becomes a problem."""
        return _read_condition_note(self.folder, self.problems) if paired else (None, {})


def recognize_folder(folder: Path | str, asked: Mapping[str, str] | None = None) -> RecognizedFolder:
    """Recognizes the layout of a folder, or of the folders that a dataset config of another trainer names.

    ``asked``: roles of its parts, by their names. Raises UserError if the folder itself cannot be used.
    """
    folder = Path(folder).expanduser()
    if not is_config(folder):
        _check_folder(folder)
    try:
        layout, found, reading = recognise(folder, asked)
    except OSError as error:
        raise UserError(
            f"The folder {folder} could not be read completely.",
            f"The system says: {error.strerror or error} ({Path(error.filename or folder).name}).",
            "Check that its disk is still connected and that you are allowed to open it, then read it again.",
        ) from error
    if not found and not reading.problems:
        raise UserError(f"There are no images in {folder}.", _why_none(reading), "Choose the folder with your images.")
    return RecognizedFolder(reading.root, layout, found, reading)


def _why_none(reading: Reading) -> str:
    """What lies in a folder without usable images."""
    unread = [f"{len(paths):,} {kind} files, which are not read" for kind, paths in reading.inventory.unread.items()]
    if reading.inventory.archives:
        unread.append(f"{len(reading.inventory.archives):,} archives")
    if not unread:
        return f"Neither the folder nor its subfolders contain an image ({SUPPORTED})."
    return f"It holds {' and '.join(unread)}, but no image in a format that is read here ({SUPPORTED})."


def scan_folder(
    folder: Path | str,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
    workers: int | None = None,
    asked: Mapping[str, str] | None = None,
) -> ScanReport:
    """Recognizes the folder's layout and reads every image completely. Keeps everything in memory.

    For datasets of any size, use ``engine.data.importing``. Unusable files become problems.

    Raises:
        UserError: the folder itself cannot be used. Cancelled: the token was cancelled.
    """
    recognized = recognize_folder(folder, asked)
    samples: list[Sample] = []
    books = Bookkeeper(recognized.reading, recognized.found)
    for problem in recognized.problems:
        books.note(problem)
    for what in read_images(recognized, progress, token, min_side, workers):
        books.note(what)
        if isinstance(what, Sample):
            samples.append(what)
        else:
            recognized.problems.append(what)
    if not samples:
        raise nothing_usable(recognized.folder, len(recognized.problems), recognized.problems[0])
    name, parameters = recognized.condition(any(sample.condition for sample in samples))
    reading = recognized.reading
    return ScanReport(
        samples,
        recognized.problems,
        recognized.layout.name,
        recognized.folder,
        name,
        parameters,
        books.close(recognized.note_file()),
        reading.notes,
        reading.doubts,
    )


def nothing_usable(folder: Path, count: int, first: Problem) -> UserError:
    """The error for a folder without a single usable image."""
    return UserError(
        f"None of the images in {folder} can be used.",
        f"The first of {count:,} problems: {first.path.name}: {first.what} {first.why}",
        first.try_this,
    )


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise UserError(
            f"The folder {folder} does not exist.", "Nothing was found under this path.", "Check the spelling."
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is a file.", "A folder of images is needed.", "Choose the folder that holds it.")
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be opened.", f"The system says: {error.strerror}.", "Check its permissions."
        ) from error


def _read_condition_note(folder: Path, problems: list[Problem]) -> tuple[str, dict[str, Any]]:
    note = folder / CONDITION_NOTE
    if note.is_file():
        try:
            content = json.loads(note.read_text(encoding="utf-8"))
            kind = str(content["type"])
            return kind, registry.stored_parameters(kind, dict(content.get("parameters", {})))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(
                Problem(
                    note,
                    f"{CONDITION_NOTE} cannot be read.",
                    f"It should contain a type and its parameters ({type(error).__name__}: {error}).",
                    "Correct or delete it. Until then, the maps count as your own.",
                )
            )
    return "own", {}


def read_images(
    recognized: RecognizedFolder,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
    workers: int | None = None,
    memory: ReadCache | None = None,
) -> Iterator[Sample | Problem]:
    """Yields samples and problems in the order of ``recognized.found``.

    Threads read a few images ahead. Files that ``memory`` knows are not opened again.

    Raises:
        UserError: the whole folder has disappeared. Cancelled: the token was cancelled.
    """
    workers = workers or min(4, os.cpu_count() or 1)
    guessed: dict[str, list[Path]] = {}
    lines = 0
    waiting: deque[tuple[FoundImage, Future[_Read]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="scan")
    try:
        todo = iter(recognized.found)
        for done in range(len(recognized.found)):
            if token:
                token.raise_if_cancelled()
            while len(waiting) < 8 * workers and (item := next(todo, None)):
                known = _known(item.image, memory), _known(item.condition, memory)
                waiting.append((item, pool.submit(_read, item, min_side, *known)))
            item, future = waiting.popleft()
            result = future.result()
            lines += result.lines
            recognized.reading.no_captions.update(result.no_captions)
            for path, encoding in result.guessed:
                guessed.setdefault(encoding, []).append(path)
            if memory:
                for path, seen in result.fresh:
                    memory.remember(path, seen)
            for what in result.items:
                if isinstance(what, Problem) and not recognized.folder.exists():
                    raise UserError(
                        f"The folder {recognized.folder} is no longer there.",
                        f"It disappeared after {done:,} of {len(recognized.found):,} images.",
                        "Connect its disk again and read it once more; images that were read already are remembered.",
                    )
                yield what
            if progress:
                progress(done + 1, len(recognized.found), item.key)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    recognized.reading.notes += _about_captions(guessed, lines)


def caption_of_found(item: FoundImage) -> str:
    """The caption of an image that was found but not read. Empty if its file cannot be read."""
    try:
        caption = item.caption or (caption_in(item.caption_path)[0] if item.caption_path else "")
    except OSError:
        return ""
    return item.otherwise if is_numbers(caption) else caption


def _about_captions(guessed: Mapping[str, list[Path]], lines: int) -> list[str]:
    """What the user should know of the caption files."""
    notes = [
        f"{len(paths):,} caption files are not UTF-8 and were read as {encoding}, for example {paths[0].name}. If "
        "letters are wrong, save them as UTF-8."
        for encoding, paths in guessed.items()
    ]
    if lines:
        notes.append(f"{lines:,} captions have several lines; each counts as one caption.")
    return notes


@dataclass
class _Read:
    """The result of one image: a sample or problems, and new facts about files."""

    items: list[Sample | Problem]
    fresh: list[tuple[Path, Inspected]]
    guessed: list[tuple[Path, str]] = field(default_factory=list)
    """Caption files whose encoding was guessed, and the guess."""
    lines: int = 0
    """Captions of several lines."""
    no_captions: list[Path] = field(default_factory=list)
    """Text files that hold no caption."""


def _known(path: Path | None, memory: ReadCache | None) -> Inspected | None:
    if path is None or memory is None:
        return None
    try:
        state = path.stat()
        return memory.known(path, state.st_size, state.st_mtime_ns)
    except (OSError, ValueError):
        return None  # reading the file will report the cause


def _read(item: FoundImage, min_side: int, image: Inspected | None, map: Inspected | None) -> _Read:
    result = _Read([], [])
    path = item.image
    try:
        str(path).encode("utf-8")
        if image is None:
            image = inspect(path, min_side)
            result.fresh.append((path, image))
        check_side(path, image.width, image.height, min_side)
        if item.condition is not None and map is None:
            path = item.condition
            map = inspect(path, min_side=1)
            result.fresh.append((path, map))
    except UserError as error:
        result.items.append(Problem(path, error.what, error.why, error.try_this))
        return result
    except UnicodeEncodeError:
        readable = Path(os.fsencode(path).decode("utf-8", "replace"))
        result.items.append(
            Problem(
                readable,
                f"{readable.name} cannot be used under its name.",
                "The name has bytes that are not text; it was probably unpacked from an archive of another system.",
                "Rename the file.",
            )
        )
        return result
    caption = item.caption
    if not caption and item.caption_path is not None:
        try:
            caption, text = caption_in(item.caption_path)
            if is_numbers(caption):
                caption, text = item.otherwise, None
                result.no_captions.append(item.caption_path)
            if text is not None and not text.sure:
                result.guessed.append((item.caption_path, text.encoding))
            result.lines += "\n" in caption
        except OSError as error:
            caption = ""
            result.items.append(
                Problem(
                    item.image,
                    f"The caption of {item.image.name} cannot be read.",
                    f"The system says: {error.strerror or error} ({item.caption_path.name}).",
                    "Check the permissions of that file. The image is used without a caption.",
                )
            )
    result.items.append(
        Sample(
            item.key,
            item.image,
            caption,
            item.condition,
            image.width,
            image.height,
            digest=image.digest,
            condition_digest=map.digest if map else "",
            bytes=image.bytes,
            mtime_ns=image.mtime_ns,
            source=item.source,
        )
    )
    return result
