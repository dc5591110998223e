"""The images of one folder that a dataset config names, with their maps and captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from engine.data.layouts.inventory import below
from engine.data.layouts.model import FoundImage, Reading, key
from engine.data.layouts.trainer_configs.lists import Entry
from engine.data.layouts.trainer_configs.model import Subset
from engine.data.layouts.words import map_bases, same_name

_NUMBERED = ("_0", "_00", "_000", "_0000")
"""Endings of the first of several maps of an image (musubi-tuner)."""


def images_of(subset: Subset, subsets: Sequence[Subset], reading: Reading) -> list[FoundImage]:
    """The images of a subset. ``subsets``: all of the config's, whose folders of maps hold no images."""
    assert subset.images is not None  # checked by the caller
    paths = list(_own_images(subset, subset.images, subsets, reading))
    entries = _Entries(paths, subset.images, subset.entries or ())
    maps = _Maps(subset, reading)
    found = []
    for number, path in enumerate(paths):
        listed = entries.of.get(path, ())
        if not listed and subset.only_listed:
            continue
        written = subset.extension and path.with_name(path.stem + subset.extension)
        file = written if isinstance(written, Path) and written in maps.files else None
        caption = next((entry.caption for entry in listed if entry.caption), "")
        if not caption:
            caption = subset.caption or (subset.from_names(path.stem) if subset.from_names else "")
        if not caption and subset.captions:
            caption = subset.captions[number % len(subset.captions)]
        name, beside = key(path, reading.root), None if caption else file
        for map in dict.fromkeys(maps.of(path, entry) for entry in listed or (None,)):
            found.append(FoundImage(name, path, caption, beside, map, otherwise=subset.otherwise, weight=subset.weight))
    return found


def _own_images(subset: Subset, folder: Path, subsets: Sequence[Subset], reading: Reading) -> Iterator[Path]:
    others = {
        place
        for other in subsets
        for place in (other.maps, *other.others, other.images if other.why_not else None)
        if place is not None and folder in place.parents
    }
    for path in below(reading.inventory.images, folder):
        if not subset.deep and path.parent != folder:
            continue
        if others.intersection(path.parents):
            continue
        if any(ending and path.stem.endswith(ending) for ending in (subset.map_ending, subset.mask_ending)):
            continue
        yield path


class _Entries:
    """The entries of a list, found by image."""

    def __init__(self, paths: Sequence[Path], folder: Path, entries: Sequence[Entry]) -> None:
        self.of: dict[Path, list[Entry]] = {}
        find = _Finder(paths, folder) if entries else None
        for entry in entries:
            if find and (path := find(entry.name)) is not None:
                self.of.setdefault(path, []).append(entry)


class _Finder:
    """Finds an image by a path that may be from another machine, and may lack the ending."""

    def __init__(self, paths: Sequence[Path], folder: Path) -> None:
        self._folder = folder
        self._paths = set(paths)
        self._by_path = {same_name(path.relative_to(folder)): path for path in paths}
        self._by_file: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for path in paths:
            self._by_file.setdefault(same_name(path.name), []).append(path)
            self._by_stem.setdefault(same_name(path.stem), []).append(path)

    def __call__(self, written: str) -> Path | None:
        name = written.replace("\\", "/").removeprefix("./")
        if (path := self._folder / name) in self._paths:
            return path
        bare = name.rsplit("/", 1)[-1]
        for by_path in (same_name(name), same_name(name.rsplit(".", 1)[0])):
            if by_path in self._by_path:
                return self._by_path[by_path]
        for choices in (self._by_file.get(same_name(bare)), self._by_stem.get(same_name(bare))):
            if choices:
                alike = [_equal_parts(path, name) for path in choices]
                return choices[alike.index(max(alike))] if alike.count(max(alike)) == 1 else None
        return None


def _equal_parts(path: Path, name: str) -> int:
    """The number of folders, counted from the file upwards, that have the same names in both paths."""
    folders = zip(reversed(path.parts[:-1]), reversed(name.split("/")[:-1]), strict=False)
    return sum(1 for _ in takewhile(lambda both: same_name(both[0]) == same_name(both[1]), folders))


class _Maps:
    """The maps of a subset's images."""

    def __init__(self, subset: Subset, reading: Reading) -> None:
        inventory = reading.inventory
        self.files = {*inventory.texts, *inventory.others, *inventory.lists}
        """Files that may hold captions."""
        self._subset = subset
        self._by_name: dict[str, Path] = {}
        self._find: _Finder | None = None
        if subset.maps is not None:
            paths = list(below(inventory.images, subset.maps))
            exact = {same_name(path.relative_to(subset.maps)): path for path in paths}
            for path in paths:  # 1/a.png and 1/b.png are the maps of 1.png, each image with a folder of its own
                self._by_name.setdefault(same_name(path.parent.relative_to(subset.maps).as_posix()), path)
            for path in paths:  # 1_canny.png is the map of 1.png
                for base, _ in map_bases(path.stem):
                    relative = path.relative_to(subset.maps).parent / base
                    self._by_name.setdefault(same_name(relative.as_posix()), path)
            self._by_name |= exact
        elif subset.map_ending and subset.images is not None:
            for path in below(inventory.images, subset.images):
                if path.stem.endswith(subset.map_ending):
                    image = path.with_name(path.stem.removesuffix(subset.map_ending))
                    self._by_name[same_name(image.relative_to(subset.images).as_posix())] = path
        if subset.images is not None and any(entry.map for entry in subset.entries or ()):
            self._find = _Finder(inventory.images, inventory.folder)

    def of(self, image: Path, entry: Entry | None) -> Path | None:
        """The map of an image. None if there is none."""
        if self._find and entry and entry.map:
            return self._find(entry.map)
        if not self._by_name or self._subset.images is None:
            return None
        name = same_name(image.relative_to(self._subset.images))
        names = (name, same_name(image.stem), *(name + number for number in _NUMBERED))
        return next((self._by_name[one] for one in names if one in self._by_name), None)
