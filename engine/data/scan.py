"""From a folder that the user points at to samples and problems. Nothing is written."""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.data.images import EXTENSIONS, MIN_SIDE, inspect
from engine.data.samples import CancelToken, Problem, Progress, Sample
from engine.errors import UserError

IMAGE_FOLDERS = ("image", "images", "target", "targets")
CONDITION_FOLDERS = ("condition", "conditions", "conditioning_image", "conditioning_images", "source", "sources")
CAPTION_EXTENSIONS = (".txt", ".caption")
METADATA = "metadata.jsonl"
CONDITION_NOTE = "condition.json"
"""Optional, beside ready-made maps: {"type": NAME, "parameters": {...}} tells what made them."""

LAYOUTS = {
    "plain": "a folder of pictures",
    "paired": "pictures and condition maps in two folders",
    "metadata": "pictures listed in metadata.jsonl",
}


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


@dataclass(frozen=True)
class _Found:
    """A picture that was found but not read yet."""

    key: str
    image: Path
    caption: str = ""
    condition: Path | None = None


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
    layout, found = _recognise(folder, problems)
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
        return ScanReport(samples, problems, layout, folder)
    name, parameters = _read_condition_note(folder, problems)
    return ScanReport(samples, problems, layout, folder, name, parameters)


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


def _recognise(folder: Path, problems: list[Problem]) -> tuple[str, list[_Found]]:
    images, conditions = _subfolder(folder, IMAGE_FOLDERS), _subfolder(folder, CONDITION_FOLDERS)
    for place in (folder, images):
        if place and (place / METADATA).is_file():
            return "metadata", _from_metadata(folder, place, problems)
    if images and conditions:
        return "paired", _from_pair(folder, images, conditions, problems)
    return "plain", [_Found(_key(path, folder), path, _caption_beside(path)) for path in _pictures(folder)]


def _subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    present = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((present[name] for name in names if name in present), None)


def _pictures(folder: Path) -> Iterator[Path]:
    """All pictures below a folder in a stable order; hidden files and linked folders are passed over."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield Path(place) / name


def _key(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _caption_beside(path: Path) -> str:
    for extension in CAPTION_EXTENSIONS:
        beside = path.with_suffix(extension)
        if beside.is_file():
            return beside.read_text(encoding="utf-8-sig", errors="replace").strip()
    return ""


def _from_pair(folder: Path, images: Path, conditions: Path, problems: list[Problem]) -> list[_Found]:
    def stem(path: Path, base: Path) -> str:
        return path.relative_to(base).with_suffix("").as_posix()

    maps = {stem(path, conditions): path for path in _pictures(conditions)}
    found, used = [], set()
    for path in _pictures(images):
        name = stem(path, images)
        if name in maps:
            used.add(name)
            found.append(_Found(_key(path, folder), path, _caption_beside(path), maps[name]))
        else:
            problems.append(
                Problem(
                    path,
                    "This picture has no condition map.",
                    f"There is no file named {Path(name).name} in {conditions.name}.",
                    "Add the map under the picture's name, or choose the picture folder alone and make all maps here.",
                )
            )
    for name in maps.keys() - used:
        problems.append(
            Problem(
                maps[name],
                "This condition map has no picture.",
                f"There is no file named {Path(name).name} in {images.name}.",
                "Add the picture under the map's name, or delete the map.",
            )
        )
    return found


def _from_metadata(folder: Path, place: Path, problems: list[Problem]) -> list[_Found]:
    metadata = place / METADATA
    found: dict[str, _Found] = {}
    for number, line in enumerate(metadata.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, condition = row["file_name"], row.get("conditioning_image_file_name") or row.get("conditioning_image")
            image = (place / name).resolve()
            key = _key(image, folder.resolve())
            condition_path = place / condition if condition else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(
                Problem(
                    metadata,
                    f"Line {number} of {METADATA} cannot be used.",
                    f"It needs a file_name inside the folder, written as JSON ({type(error).__name__}: {error}).",
                    "Correct the line.",
                )
            )
            continue
        caption = next((str(row[word]).strip() for word in ("text", "caption", "prompt") if row.get(word)), "")
        found[key] = _Found(key, folder / key, caption or _caption_beside(folder / key), condition_path)
    paired = Counter(item.condition is not None for item in found.values())
    if paired[True] and paired[False]:
        for item in [item for item in found.values() if item.condition is None]:
            del found[item.key]
            problems.append(
                Problem(
                    item.image,
                    "This picture has no condition map.",
                    f"Its line in {METADATA} names no conditioning image, the other lines do.",
                    "Add conditioning_image_file_name to the line.",
                )
            )
    return list(found.values())


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
    found: list[_Found],
    problems: list[Problem],
    progress: Progress | None,
    token: CancelToken | None,
    min_side: int,
    workers: int | None,
) -> list[Sample]:
    """Reads in threads, a few pictures ahead and no more, and keeps the order."""
    samples: list[Sample] = []
    workers = workers or min(4, os.cpu_count() or 1)
    waiting: deque[tuple[_Found, Future[Sample | Problem]]] = deque()
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


def _read(item: _Found, min_side: int) -> Sample | Problem:
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
