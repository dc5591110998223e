"""Reads a folder of images into samples and problems. Writes nothing."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engine.data.layouts import ORDER, FolderLayout, FoundImage, recognise
from engine.data.layouts.listed import METADATA
from engine.data.layouts.model import caption_beside
from engine.data.samples import Problem, Sample
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
    problems: list[Problem]

    def condition(self, paired: bool) -> tuple[str | None, dict[str, Any]]:
        """Type and parameters of the maps that came with the images, if any. A damaged note becomes a problem."""
        return _read_condition_note(self.folder, self.problems) if paired else (None, {})


def recognize_folder(folder: Path | str) -> RecognizedFolder:
    """Recognizes the folder's layout. Raises UserError if the folder itself cannot be used."""
    folder = Path(folder).expanduser()
    _check_folder(folder)
    problems: list[Problem] = []
    try:
        layout, found = recognise(folder, problems)
    except OSError as error:
        raise UserError(
            f"The folder {folder} could not be read completely.",
            f"The system says: {error.strerror or error} ({Path(error.filename or folder).name}).",
            "Check that its disk is still connected and that you are allowed to open it, then read it again.",
        ) from error
    if not found and not problems:
        raise UserError(
            f"There are no images in {folder}.",
            "Neither the folder nor its subfolders contain a PNG, JPEG, WebP, BMP, TIFF or GIF file.",
            "Choose the folder with your images.",
        )
    return RecognizedFolder(folder, layout, found, problems)


def scan_folder(
    folder: Path | str,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
    workers: int | None = None,
) -> ScanReport:
    """Recognizes the folder's layout and reads every image completely. Keeps everything in memory.

    For datasets of any size, use ``engine.data.importing``. Unusable files become problems.

    Raises:
        UserError: the folder itself cannot be used. Cancelled: the token was cancelled.
    """
    recognized = recognize_folder(folder)
    samples: list[Sample] = []
    for what in read_images(recognized, progress, token, min_side, workers):
        if isinstance(what, Sample):
            samples.append(what)
        else:
            recognized.problems.append(what)
    if not samples:
        raise nothing_usable(recognized.folder, len(recognized.problems), recognized.problems[0])
    name, parameters = recognized.condition(any(sample.condition for sample in samples))
    return ScanReport(samples, recognized.problems, recognized.layout.name, recognized.folder, name, parameters)


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
            return str(content["type"]), dict(content.get("parameters", {}))
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


@dataclass
class _Read:
    """The result of one image: a sample or problems, and new facts about files."""

    items: list[Sample | Problem]
    fresh: list[tuple[Path, Inspected]]


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
    if caption is None:
        try:
            caption = caption_beside(item.image)
        except OSError as error:
            caption = ""
            result.items.append(
                Problem(
                    item.image,
                    f"The caption of {item.image.name} cannot be read.",
                    f"The system says: {error.strerror or error}.",
                    "Check the permissions of the text file beside it. The image is used without a caption.",
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
