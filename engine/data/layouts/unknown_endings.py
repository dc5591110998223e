"""Images and maps in one folder whose names differ in a part that says nothing: 1_A.png and 1_B.png, 7.png and x7.png.

Their contents tell which ones are maps, and the user is asked.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from engine.data.layouts.inventory import check_search
from engine.data.layouts.looks import evenly, mostly_drawn, same_aspect_ratios
from engine.data.layouts.words import same_name

_MOST = 4
"""The most kinds of images that may belong together. In a folder with more, the names mean something else."""
_STRAY = 16
"""Kinds that are counted, among them those of single files."""
_LOOKED_AT = 500
_NEARLY_ALL = 0.9
_MOST_PATHS = 2 / 3
_SEPARATED = re.compile(r"(.+)([-_. ]+[^-_. ]+)")
_BEGINNING = re.compile(r"([^-_. ]+[-_. ]+)(.+)")
_NUMBERED = re.compile(r"(\D*?)0*(\d+)(\D*)")
Split = Callable[[Path], tuple[Hashable, str] | None]


def by_contents(paths: Sequence[Path]) -> dict[str, dict[Path, Path]]:
    """Part of the names -> image -> its map. Empty unless most images have a partner that looks like a map."""
    some = random.Random(0).sample(paths, min(len(paths), _LOOKED_AT))
    for split in (_at_the_end, _at_the_beginning, _around_a_number, _in_folders):
        check_search()
        if len(_usual(some, split)) > 1 and (found := _maps_of(_usual(paths, split))):
            return found
    return {}


def _usual(paths: Sequence[Path], split: Split) -> dict[str, dict[Hashable, Path]]:
    """The kinds of images without those that a few strays are of; none if most images are of no common kind."""
    kinds: dict[str, dict[Hashable, Path]] = {}
    for path in paths:
        if (parted := split(path)) is not None and (parted[1] in kinds or len(kinds) <= _STRAY):
            kinds.setdefault(parted[1], {})[parted[0]] = path
    largest = max(map(len, kinds.values()), default=0)
    usual = {name: one for name, one in kinds.items() if len(one) > largest / 2}
    return usual if sum(map(len, usual.values())) >= _MOST_PATHS * len(paths) else {}


def _maps_of(kinds: dict[str, dict[Hashable, Path]]) -> dict[str, dict[Path, Path]]:
    """The kinds that look like maps of one other kind, which does not."""
    both = set.intersection(*(set(one) for one in kinds.values())) if 2 <= len(kinds) <= _MOST else set()
    if len(both) < 2 or len(both) < _NEARLY_ALL * max(map(len, kinds.values())):
        return {}
    keys = [key for key in next(iter(kinds.values())) if key in both]
    drawn = {name for name, one in kinds.items() if mostly_drawn([one[key] for key in keys])}
    if len(drawn) != len(kinds) - 1:
        return {}
    (images,) = (one for name, one in kinds.items() if name not in drawn)
    maps = {name: {images[key]: kinds[name][key] for key in keys} for name in kinds if name in drawn}
    return maps if all(same_aspect_ratios(evenly(list(pairs.items()))) for pairs in maps.values()) else {}


def _at_the_end(path: Path) -> tuple[Hashable, str] | None:
    """1_A: a separator and what follows it, "" for a name without one."""
    match = _SEPARATED.fullmatch(path.stem)
    return ((path.parent, same_name(match[1])), match[2]) if match else ((path.parent, same_name(path.stem)), "")


def _at_the_beginning(path: Path) -> tuple[Hashable, str] | None:
    match = _BEGINNING.fullmatch(path.stem)
    return ((path.parent, same_name(match[2])), match[1]) if match else ((path.parent, same_name(path.stem)), "")


def _around_a_number(path: Path) -> tuple[Hashable, str] | None:
    match = _NUMBERED.fullmatch(path.stem)
    return ((path.parent, match[2]), f"{match[1]}{match[3]}") if match else None


def _in_folders(path: Path) -> tuple[Hashable, str] | None:
    """s1/0 and s1/1: the same names in the folder of each pair."""
    return path.parent, path.stem
