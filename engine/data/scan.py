"""From a folder that the user points at to samples and problems. Nothing is written."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engine.data.layouts import ORDER, Found, Layout, recognise
from engine.data.layouts.listed import METADATA
from engine.data.layouts.model import caption_beside
from engine.data.samples import Problem, Sample
from engine.disk.images import MIN_SIDE, Inspected, check_side, inspect
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress

__all__ = ["CONDITION_NOTE", "LAYOUTS", "METADATA", "ScanReport", "scan_folder"]

CONDITION_NOTE = "condition.json"
"""Optional, beside ready-made maps: {"type": NAME, "parameters": {...}} tells what made them."""

LAYOUTS = {layout.name: layout.title for layout in ORDER}


@dataclass(frozen=True)
class ScanReport:
    """What a folder holds. ``layout`` is a key of LAYOUTS."""

    samples: list[Sample]
    problems: list[Problem]
    layout: str
    source: Path
    condition_type: str | None = None
    """For ready-made maps: the type in condition.json, otherwise "own". None where there are no maps."""
    condition_parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def paired(self) -> bool:
        return self.condition_type is not None

    @property
    def captioned(self) -> int:
        """How many samples have a caption that is not empty."""
        return sum(bool(sample.caption) for sample in self.samples)

    @property
    def layout_title(self) -> str:
        return LAYOUTS[self.layout]


class Memory(Protocol):
    """What was read of files before; asked in the caller's thread only."""

    def known(self, path: Path, size: int, mtime_ns: int) -> Inspected | None: ...
    def remember(self, path: Path, seen: Inspected) -> None: ...


@dataclass(frozen=True)
class Look:
    """A folder whose layout is known, and whose images are not read yet."""

    folder: Path
    layout: Layout
    found: list[Found]
    problems: list[Problem]

    def condition(self, paired: bool) -> tuple[str | None, dict[str, Any]]:
        """What made the maps that came with the images, if there are any; a damaged note becomes a problem."""
        return _read_condition_note(self.folder, self.problems) if paired else (None, {})


def look_at(folder: Path | str) -> Look:
    """Recognises the folder's layout. UserError where the folder itself is the problem."""
    folder = Path(folder).expanduser()
    _check_folder(folder)
    problems: list[Problem] = []
    try:
        layout, found = recognise(folder, problems)
    except OSError as error:
        raise UserError(
            f"The folder {folder} could not be read to its end.",
            f"The system says: {error.strerror or error} ({Path(error.filename or folder).name}).",
            "Check that its disk is still connected and that you may open it, then read it again.",
        ) from error
    if not found and not problems:
        raise UserError(
            f"There are no images in {folder}.",
            "Neither the folder nor the folders in it hold a PNG, JPEG, WebP, BMP, TIFF or GIF file.",
            "Choose the folder that holds your images.",
        )
    return Look(folder, layout, found, problems)


def scan_folder(
    folder: Path | str,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
    workers: int | None = None,
) -> ScanReport:
    """Recognises the folder's layout and reads every image to its end; everything is kept in memory.

    For sets of any size see ``engine.data.importing``. Unusable files become problems; UserError where the folder
    itself is the problem. Cancelling raises what the token raises.
    """
    look = look_at(folder)
    samples: list[Sample] = []
    for what in read_images(look, progress, token, min_side, workers):
        if isinstance(what, Sample):
            samples.append(what)
        else:
            look.problems.append(what)
    if not samples:
        raise nothing_usable(look.folder, len(look.problems), look.problems[0])
    name, parameters = look.condition(any(sample.condition for sample in samples))
    return ScanReport(samples, look.problems, look.layout.name, look.folder, name, parameters)


def nothing_usable(folder: Path, count: int, first: Problem) -> UserError:
    """For a folder whose images are all unusable."""
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
                    f"It should hold a type and its parameters ({type(error).__name__}: {error}).",
                    "Correct or delete it; the maps are taken as your own until then.",
                )
            )
    return "own", {}


def read_images(
    look: Look,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
    workers: int | None = None,
    memory: Memory | None = None,
) -> Iterator[Sample | Problem]:
    """Samples and problems in the order of ``look.found``, one at a time.

    Reads in threads, a few images ahead and no more. Files that ``memory`` knows are not opened again.

    Raises:
        UserError: the whole folder has vanished. Cancelled: whatever the token raises.
    """
    workers = workers or min(4, os.cpu_count() or 1)
    waiting: deque[tuple[Found, Future[_Read]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="scan")
    try:
        todo = iter(look.found)
        for done in range(len(look.found)):
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
            for what in result.told:
                if isinstance(what, Problem) and not look.folder.exists():
                    raise UserError(
                        f"The folder {look.folder} is not there any more.",
                        f"It vanished after {done:,} of {len(look.found):,} images.",
                        "Connect its disk again and read it once more: what was read already is remembered.",
                    )
                yield what
            if progress:
                progress(done + 1, len(look.found), item.key)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Read:
    """What one image gave: a sample or the reason against it, and what was read afresh."""

    told: list[Sample | Problem]
    fresh: list[tuple[Path, Inspected]]


def _known(path: Path | None, memory: Memory | None) -> Inspected | None:
    if path is None or memory is None:
        return None
    try:
        state = path.stat()
        return memory.known(path, state.st_size, state.st_mtime_ns)
    except (OSError, ValueError):
        return None  # reading it will tell what is wrong


def _read(item: Found, min_side: int, image: Inspected | None, map: Inspected | None) -> _Read:
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
        result.told.append(Problem(path, error.what, error.why, error.try_this))
        return result
    except UnicodeEncodeError:
        readable = Path(os.fsencode(path).decode("utf-8", "replace"))
        result.told.append(
            Problem(
                readable,
                f"{readable.name} cannot be used under its name.",
                "The name holds bytes that are no text; it was probably unpacked from an archive of another system.",
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
            result.told.append(
                Problem(
                    item.image,
                    f"The caption of {item.image.name} cannot be read.",
                    f"The system says: {error.strerror or error}.",
                    "Check the permissions of the text file beside it; the image is used without a caption.",
                )
            )
    result.told.append(
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
