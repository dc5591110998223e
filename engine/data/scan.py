"""From a folder that the user points at to samples and problems. Nothing is written."""

from __future__ import annotations

import json
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.data.images import MIN_SIDE, inspect
from engine.data.layouts import ORDER, Found, recognise
from engine.data.layouts.listed import METADATA
from engine.data.samples import CancelToken, Problem, Progress, Sample
from engine.errors import UserError

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


def scan_folder(
    folder: Path | str,
    progress: Progress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
    workers: int | None = None,
) -> ScanReport:
    """Recognises the folder's layout and reads every picture to its end.

    Unusable files become problems; UserError where the folder itself is the problem. Cancelling raises what the
    token raises.
    """
    folder = Path(folder).expanduser()
    _check_folder(folder)
    problems: list[Problem] = []
    layout, found = recognise(folder, problems)
    if not found and not problems:
        raise UserError(
            f"There are no pictures in {folder}.",
            "Neither the folder nor the folders in it hold a PNG, JPEG, WebP, BMP, TIFF or GIF file.",
            "Choose the folder that holds your pictures.",
        )
    samples = _read_all(found, problems, progress, token, min_side, workers)
    if not samples:
        raise UserError(
            f"None of the pictures in {folder} can be used.",
            f"The first of {len(problems)} problems: {problems[0].path.name}: {problems[0].what} {problems[0].why}",
            problems[0].try_this,
        )
    if not any(sample.condition for sample in samples):
        return ScanReport(samples, problems, layout.name, folder)
    name, parameters = _read_condition_note(folder, problems)
    return ScanReport(samples, problems, layout.name, folder, name, parameters)


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise UserError(
            f"The folder {folder} does not exist.", "Nothing was found under this path.", "Check the spelling."
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is a file.", "A folder of pictures is needed.", "Choose the folder that holds it.")
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


def _read_all(
    found: list[Found],
    problems: list[Problem],
    progress: Progress | None,
    token: CancelToken | None,
    min_side: int,
    workers: int | None,
) -> list[Sample]:
    """Reads in threads, a few pictures ahead and no more, and keeps the order."""
    samples: list[Sample] = []
    workers = workers or min(4, os.cpu_count() or 1)
    waiting: deque[tuple[Found, Future[Sample | Problem]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="scan")
    try:
        todo = iter(found)
        for done in range(len(found)):
            if token:
                token.raise_if_cancelled()
            while len(waiting) < 4 * workers and (item := next(todo, None)):
                waiting.append((item, pool.submit(_read, item, min_side)))
            item, future = waiting.popleft()
            result = future.result()
            if isinstance(result, Sample):
                samples.append(result)
            else:
                problems.append(result)
            if progress:
                progress(done + 1, len(found), item.key)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return samples


def _read(item: Found, min_side: int) -> Sample | Problem:
    try:
        seen = inspect(item.image, min_side)
    except UserError as error:
        return Problem(item.image, error.what, error.why, error.try_this)
    sample = Sample(
        item.key,
        item.image,
        item.caption,
        None,
        seen.width,
        seen.height,
        digest=seen.digest,
        bytes=seen.bytes,
        mtime_ns=seen.mtime_ns,
    )
    if item.condition is None:
        return sample
    try:
        seen = inspect(item.condition, min_side=1)
    except UserError as error:
        return Problem(item.condition, error.what, error.why, error.try_this)
    return replace(sample, condition=item.condition, condition_digest=seen.digest)
