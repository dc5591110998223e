"""How every file of an imported folder was used, or why it was left out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.data.layouts.inventory import UNREAD_ARCHIVES, take_inventory
from engine.data.layouts.model import FoundImage, Reading
from engine.data.samples import Problem, Sample
from engine.machine.units import counted

EXAMPLES = 3


@dataclass(frozen=True)
class LeftOut:
    """Files with the same note, such as the reason why they were not used."""

    what: str
    """What they are and why, as words after a number: "HEIC files, which are not read"."""
    count: int
    examples: tuple[str, ...]
    """Paths relative to the folder, with forward slashes."""


@dataclass(frozen=True)
class FileUsage:
    """How every file of a folder was used. The numbers add up to ``files``."""

    files: int
    images: int
    maps: int
    captions: int
    lists: int
    left_out: tuple[LeftOut, ...] = ()
    hidden: int = 0
    """Hidden files, and those that the system makes. Not part of ``files``."""
    beside: tuple[LeftOut, ...] = ()
    """Files beside the archives or tables that the images come from, which were not used. Not part of ``files``."""
    deep_maps: tuple[LeftOut, ...] = ()
    """Used maps with more than 8 bits, by how they are brought to 8 bits. Part of ``maps``."""
    deep_images: tuple[LeftOut, ...] = ()
    """Used images with more than 8 bits, likewise. Part of ``images``."""
    unpacked: bool = False
    """The images were unpacked or downloaded: ``files`` are those of the dataset's own folder."""

    def sentences(self) -> list[str]:
        """The usage for people, one sentence for each kind."""
        used = [
            counted(self.images, "image"),
            counted(self.maps, "condition map"),
            counted(self.captions, "caption file"),
            counted(self.lists, "list"),
        ]
        said = ", ".join(words for words in used if not words.startswith("0 "))
        said = " and ".join(said.rsplit(", ", 1))
        rest = sum(one.count for one in self.left_out)
        place = "the dataset's own folder" if self.unpacked else "the folder"
        first = f"Of {counted(self.files, 'file')} in {place}, {said or 'nothing'} {_were(said)} used"
        told = (
            [f"{first}, {rest:,} left out:", *map(_line, self.left_out)] if rest else [f"{first}. None were left out."]
        )
        for deep, what in ((self.deep_images, "image"), (self.deep_maps, "condition map")):
            if deep:
                have = counted(sum(one.count for one in deep), f"{what} has", f"{what}s have")
                told += [f"{have} more than 8 bits and will be read as 8 bits (0 to 255):", *map(_line, deep)]
        if self.beside:
            beside = counted(sum(one.count for one in self.beside), "file")
            told += [
                f"Besides what was unpacked or downloaded, {beside} {_were(beside)} left out:",
                *map(_line, self.beside),
            ]
        return told

    def as_dict(self) -> dict[str, Any]:
        """For dataset.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileUsage:
        """The opposite of ``as_dict``."""
        parts = {
            key: tuple(LeftOut(one["what"], one["count"], tuple(one["examples"])) for one in values.get(key, ()))
            for key in ("left_out", "beside", "deep_maps", "deep_images")
        }
        return cls(**{**values, **parts})


def left_beside(folder: Path, used: Iterable[Path]) -> tuple[LeftOut, ...]:
    """The files below a folder of archives or tables that were not used."""
    inventory, done = take_inventory(folder, []), set(used)
    taken = " and ".join(sorted({path.suffix.lower() for path in done.intersection(inventory.archives)}))
    kinds = {
        "images, which are treated as previews": inventory.images,
        "text files": inventory.texts,
        "lists and JSON files": inventory.lists,
        f"archives and tables, since the images were taken from {taken or 'others'} files: to use one of these, import "
        "the file by itself": inventory.archives,
        **{_unread(kind): paths for kind, paths in inventory.unread.items()},
        "other files": inventory.others,
    }
    rest = {what: [path for path in paths if path not in done] for what, paths in kinds.items()}
    return tuple(_left(what, paths, folder) for what, paths in rest.items() if paths)


@dataclass
class FileUsageRecorder:
    """Records how each file is used while a folder is read."""

    reading: Reading
    found: list[FoundImage]
    used: set[Path] = field(default_factory=set)
    maps: set[Path] = field(default_factory=set)
    problems: set[Path] = field(default_factory=set)

    def record(self, what: Sample | Problem) -> None:
        """Record one result of the reading."""
        if isinstance(what, Problem):
            self.problems.add(what.path)
        else:
            self.used.add(what.image)
            if what.condition is not None:
                self.maps.add(what.condition)

    def _is_problem(self, path: Path) -> bool:
        return path in self.problems or (not _is_text(path) and Path(_as_text(str(path))) in self.problems)

    def summary(
        self, notes: Iterable[Path] = (), unpacked: bool = False, beside: tuple[LeftOut, ...] = ()
    ) -> FileUsage:
        """The usage so far. ``notes``: other files that were read, such as condition.json."""
        inventory, root = self.reading.inventory, self.reading.root
        maps = self.maps.intersection(inventory.images)  # a list may name maps outside of the folder
        captions = {item.caption_path for item in self.found if item.image in self.used and item.caption_path}
        captions -= self.reading.no_captions
        lists = {*self.reading.lists, *notes}
        done = self.used | maps | captions | lists
        left: dict[str, list[Path]] = {}
        everything = [*inventory.images, *inventory.texts, *inventory.lists, *inventory.archives, *inventory.others]
        there = set(everything).union(*inventory.unread.values())
        elsewhere = self.used - there  # hidden files that a list names

        def leave(what: str, paths: Iterable[Path]) -> None:
            # A list may name files that are not there.
            rest = [path for path in dict.fromkeys(paths) if path not in done and path in there]
            done.update(rest)
            if rest:
                left.setdefault(what, []).extend(rest)

        leave("that cannot be used (see Problems)", filter(self._is_problem, everything))
        for reason, paths in self.reading.left_out.items():
            leave(f"images {reason}", paths)
        no_captions = sorted(self.reading.no_captions)
        leave(
            "text or JSON files named like images that contain numbers or other data, such as labels, instead of "
            "captions",
            no_captions,
        )
        leave("images and maps whose partner cannot be used", (p for item in self.found for p in _both(item)))
        leave("captions of such images", (item.caption_path for item in self.found if item.caption_path))
        leave("images without a partner", inventory.images)
        captioned = {item.image.with_suffix("") for item in self.found if item.caption or item.caption_path}
        second = [path for path in (*inventory.texts, *inventory.lists) if path.with_suffix("") in captioned]
        leave("files next to images whose caption or data came from elsewhere", second)
        leave("text files that do not belong to an image", inventory.texts)
        leave("lists and JSON files that were not used", inventory.lists)
        closed = [path for path in inventory.archives if path.suffix.lower() in UNREAD_ARCHIVES]
        leave("archives that this app cannot unpack: unpack them yourself", closed)
        leave("archives, which are not unpacked when there are images next to them", inventory.archives)
        for kind, paths in inventory.unread.items():
            leave(_unread(kind), paths)
        leave("other files", inventory.others)

        def deep(used: set[Path], kinds: Mapping[str, list[Path]]) -> tuple[LeftOut, ...]:
            found = {what: [path for path in paths if path in used] for what, paths in kinds.items()}
            return tuple(_left(what, paths, root) for what, paths in found.items() if paths)

        return FileUsage(
            files=inventory.files + len(elsewhere),
            images=len(self.used),
            maps=len(maps - self.used),
            captions=len(captions),
            lists=len(lists),
            left_out=tuple(_left(what, paths, root) for what, paths in left.items()),
            hidden=inventory.hidden,
            beside=beside,
            deep_maps=deep(self.maps, self.reading.deep_maps),
            deep_images=deep(self.used, self.reading.deep_images),
            unpacked=unpacked,
        )


def _left(what: str, paths: Sequence[Path], root: Path) -> LeftOut:
    return LeftOut(what, len(paths), tuple(_relative(path, root) for path in paths[:EXAMPLES]))


ONE = {
    "images, which are treated as previews": "image, which is treated as a preview",
    "text files": "text file",
    "lists and JSON files": "list or JSON file",
    "archives and tables": "archive or table",
    "other files": "other file",
    "text or JSON files named like images that contain numbers or other data, such as labels, instead of captions": (
        "text or JSON file named like an image that contains numbers or other data, such as labels, instead of a "
        "caption"
    ),
    "images and maps whose partner cannot be used": "image or map whose partner cannot be used",
    "captions of such images": "caption of such an image",
    "images without a partner": "image without a partner",
    "files next to images whose caption or data came from elsewhere": (
        "file next to an image whose caption or data came from elsewhere"
    ),
    "text files that do not belong to an image": "text file that does not belong to an image",
    "lists and JSON files that were not used": "list or JSON file that was not used",
    "archives that this app cannot unpack: unpack them yourself": (
        "archive that this app cannot unpack: unpack it yourself"
    ),
    "archives, which are not unpacked when there are images next to them": (
        "archive, which is not unpacked when there are images next to it"
    ),
}
"""What was left out, and the same words for one file. Images with a reason and unread kinds: see ``_words``."""


def _words(one: LeftOut) -> str:
    """What the files are, in the singular for one."""
    if one.count != 1:
        return one.what
    if one.what in ONE:
        return ONE[one.what]
    if one.what.startswith("archives and tables, since"):
        return one.what.replace("archives and tables", "archive or table").replace("one of these", "it")
    kind, unread, rest = one.what.partition(" files, which this app cannot read")
    if unread:
        return f"{kind} file, which this app cannot read{rest.replace('images', 'the image', 1)}"
    return f"image {one.what.removeprefix('images ')}" if one.what.startswith("images ") else one.what


def _line(one: LeftOut) -> str:
    return f"{one.count:,} {_words(one)}: {_some(one.examples, one.count)}"


def _unread(kind: str) -> str:
    return f"{kind} files, which this app cannot read (save images as JPEG or PNG)"


def _both(item: FoundImage) -> Iterable[Path]:
    return (path for path in (item.image, item.condition) if path is not None)


def _relative(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return _as_text(name)


def _as_text(name: str) -> str:
    """A name that may hold bytes that are no text, as the problems write it."""
    return os.fsencode(name).decode("utf-8", "replace")


def _is_text(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _were(said: str) -> str:
    return "was" if said.startswith("1 ") and " and " not in said else "were"


def _some(examples: tuple[str, ...], count: int) -> str:
    return ", ".join(examples) + (" …" if count > len(examples) else ".")
