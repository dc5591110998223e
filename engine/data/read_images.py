"""Reads the images, maps and captions that were found in a folder into samples and problems, a few at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from engine.data.layouts import FoundImage
from engine.data.layouts.texts import caption_in, is_numbers, mistake_in
from engine.data.recognized import RecognizedFolder
from engine.data.samples import Problem, Sample
from engine.disk.images import MIN_SIDE, Inspected, check_side, has_more, inspect
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted


class ReadCache(Protocol):
    """Remembers facts about files from earlier scans. Only called in the caller's thread."""

    def known(self, path: Path, size: int, mtime_ns: int, is_map: bool) -> Inspected | None: ...
    def remember(self, path: Path, seen: Inspected) -> None: ...


def read_images(
    recognized: RecognizedFolder,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
    workers: int | None = None,
    memory: ReadCache | None = None,
    old_ground: bool = False,
) -> Iterator[Sample | Problem]:
    """Yields samples and problems in the order of ``recognized.found``.

    Threads read a few images ahead. Files that ``memory`` knows are not opened again. ``old_ground``: of the dataset
    that is read again; how its transparent parts are read is not told then.

    Raises:
        UserError: the whole folder has disappeared. Cancelled: the token was cancelled.
    """
    workers = workers or min(4, os.cpu_count() or 1)
    guessed: dict[str, list[Path]] = {}
    several: list[Path] = []
    grounds: dict[tuple[bool, str], list[Path]] = {}
    lines = 0
    waiting: deque[tuple[FoundImage, Future[_Read]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="scan")
    try:
        todo = iter(recognized.found)
        for done in range(len(recognized.found)):
            if token:
                token.raise_if_cancelled()
            while len(waiting) < 8 * workers and (item := next(todo, None)):
                known = _known(item.image, memory, False), _known(item.condition, memory, True)
                waiting.append((item, pool.submit(_read, item, min_side, *known)))
            item, future = waiting.popleft()
            result = future.result()
            lines += result.lines
            several += result.several
            for is_map, ground, path in result.grounds:
                grounds.setdefault((is_map, ground), []).append(path)
            for is_map, depth, path in result.depths:
                deep = recognized.reading.deep_maps if is_map else recognized.reading.deep_images
                deep.setdefault(depth, []).append(path)
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
                        f"It disappeared after {done:,} of {counted(len(recognized.found), 'image')}.",
                        "Reconnect its disk and read the folder again; images that were already read are remembered.",
                    )
                yield what
            if progress:
                progress(done + 1, len(recognized.found), item.key)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    recognized.reading.notes += [*_about_captions(guessed, lines), *([] if old_ground else _about_grounds(grounds))]
    if several:
        files = counted(len(several), "file holds", "files hold")
        recognized.reading.notes.append(
            f"{files} an animation or several pages; only the first image is used, for example of {several[0].name}."
        )


def caption_of_found(item: FoundImage) -> str:
    """The caption of an image that was found but not read. Empty if its file cannot be read."""
    try:
        caption = item.caption or (caption_in(item.caption_path)[0] if item.caption_path else "")
    except OSError:
        return ""
    return item.otherwise if is_numbers(caption) else caption


def _about_captions(guessed: Mapping[str, list[Path]], lines: int) -> list[str]:
    """Notes for the user about the caption files."""
    notes = [
        f"{counted(len(paths), 'caption file is not UTF-8 and was', 'caption files are not UTF-8 and were')} read as "
        f"{encoding}, for example {paths[0].name}. If "
        "letters are wrong, save them as UTF-8."
        for encoding, paths in guessed.items()
    ]
    if lines:
        notes.append(f"{counted(lines, 'caption has', 'captions have')} several lines, which are read as one caption.")
    return notes


def _about_grounds(grounds: Mapping[tuple[bool, str], list[Path]]) -> list[str]:
    """Notes for the user about what lies behind transparent parts."""
    notes = []
    for is_map, what in ((False, "image"), (True, "condition map")):
        by_ground = {ground: paths for (of_map, ground), paths in grounds.items() if of_map == is_map}
        if set(by_ground) <= ({"white"} if not is_map else set()):
            continue  # of images the dataset check tells
        count = counted(sum(map(len, by_ground.values())), what)
        shares = [f"{ground} in {len(paths):,}, for example {paths[0].name}" for ground, paths in by_ground.items()]
        alike = "" if len(by_ground) == 1 else " A net learns best from maps with one ground." if is_map else ""
        notes.append(
            f"Transparent parts of {count} are filled with a colour on which everything visible can be seen: "
            f"{'; '.join(shares)}.{alike}"
        )
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
    several: list[Path] = field(default_factory=list)
    """Files with more images than the one that is used."""
    grounds: list[tuple[bool, str, Path]] = field(default_factory=list)
    """Of files with transparent parts: whether it is a map, what is put behind them, the file."""
    depths: list[tuple[bool, str, Path]] = field(default_factory=list)
    """Of files with more than 8 bits: whether it is a map, how it is brought to 8 bits, the file."""
    no_captions: list[Path] = field(default_factory=list)
    """Text files that hold no caption."""


def _known(path: Path | None, memory: ReadCache | None, is_map: bool) -> Inspected | None:
    if path is None or memory is None:
        return None
    try:
        state = path.stat()
        return memory.known(path, state.st_size, state.st_mtime_ns, is_map)
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
            map = inspect(path, min_side=1, is_map=True)
            result.fresh.append((path, map))
        read = ((False, item.image, image), (True, item.condition, map))
        result.grounds += [(m, seen.ground, path) for m, path, seen in read if path and seen and seen.ground]
        result.depths += [(m, seen.depth, path) for m, path, seen in read if path and seen and seen.depth]
        result.several += [path for path in (item.image, item.condition) if path is not None and has_more(path)]
    except UserError as error:
        result.items.append(Problem(path, error.what, error.why, error.try_this))
        return result
    except UnicodeEncodeError:
        readable = Path(os.fsencode(path).decode("utf-8", "replace"))
        result.items.append(
            Problem(
                readable,
                f"{readable.name} cannot be used because of its name.",
                "The name contains bytes that are not text; it was probably unpacked from an archive made on "
                "another system.",
                "Rename the file.",
            )
        )
        return result
    caption = item.caption
    if not caption and item.caption_path is not None:
        try:
            caption, text = caption_in(item.caption_path)
            if not caption and text is not None and (mistake := mistake_in(item.caption_path, text.text)):
                broken = f"It is broken: {mistake}"
                result.items.append(_without_caption(item, item.caption_path, broken, "Correct that file."))
                result.no_captions.append(item.caption_path)
                text = None
            elif is_numbers(caption) or (not caption and item.caption_path.suffix.lower() == ".json"):
                caption, text = item.otherwise, None
                result.no_captions.append(item.caption_path)
            if text is not None and not text.sure:
                result.guessed.append((item.caption_path, text.encoding))
            result.lines += "\n" in caption
        except OSError as error:
            caption = ""
            says = f"The system says: {error.strerror or error}"
            result.items.append(_without_caption(item, item.image, says, "Check the permissions of that file."))
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
            weight=item.weight,
        )
    )
    return result


def _without_caption(item: FoundImage, path: Path, why: str, advice: str) -> Problem:
    name = item.caption_path.name if item.caption_path else ""
    return Problem(
        path,
        f"The caption of {item.image.name} cannot be read.",
        f"{why} ({name}).",
        f"{advice} The image is used without a caption.",
    )
