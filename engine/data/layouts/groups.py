"""The images of each folder, and which of them belong together by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engine.data.layouts.model import Reading
from engine.data.layouts.words import MAP, image_bases, map_bases, role_of, same_name

HERE = "."
"""The name of the part with the images directly in the folder."""


@dataclass(frozen=True)
class Group:
    """The images of one folder."""

    name: str
    folder: Path
    images: list[Path]

    @cached_property
    def by_name(self) -> dict[str, Path]:
        """The images by their paths in the folder, without endings."""
        return {same_name(inner): path for path, inner in self._inner()}

    @cached_property
    def deepest(self) -> Path:
        """The folder that holds all images: "images/images" where an archive was unpacked into a folder of its name."""
        return Path(os.path.commonpath([path.parent for path in self.images])) if self.images else self.folder

    def _inner(self) -> Iterator[tuple[Path, str]]:
        """Each image with its path in the folder, without ending, with forward slashes."""
        start = len(str(self.folder).rstrip(os.sep)) + 1
        for path in self.images:
            name = str(path)[start:].replace(os.sep, "/")
            yield path, name[: len(name) - len(path.suffix)]

    @cached_property
    def by_base(self) -> dict[str, Path]:
        """Group maps by image name: "1" for 1_canny.png, canny_1.png and 1.jpg.png."""
        found: dict[str, Path] = {}
        for path, inner in self._inner():
            place, slash, stem = inner.rpartition("/")
            for base, _ in map_bases(stem):
                found.setdefault(same_name(place + slash + base), path)
        return found

    @cached_property
    def names(self) -> set[str]:
        """All names by which images and maps of this group may belong to those of another."""
        bases = {
            same_name(place + slash + base)
            for _, inner in self._inner()
            for place, slash, stem in (inner.rpartition("/"),)
            for base in image_bases(stem)
        }
        return bases.union(self.by_name, self.by_base)

    def map_of(self, image: Path, images: Group) -> Path | None:
        """This group's map of an image of another group, whose name is the same, or is but for words like "canny"."""
        name = image.relative_to(images.folder)
        found = self._named(name)
        if found is None and images.deepest != images.folder:
            found = self._named(image.relative_to(images.deepest))
        if found is None and (base := images.base_of(name.stem)):
            found = self._by_own_base.get(same_name((name.parent / base).as_posix()))
        return found

    def base_of(self, stem: str) -> str:
        """What precedes the folder's name in a file's: "bonn_1" of leftImg8bit/bonn_1_leftImg8bit.png, or ""."""
        match = re.match(rf"(.+?)[-_. ]{re.escape(self.folder.name)}(?:[-_. ]|$)", stem, re.IGNORECASE)
        return match[1] if match else ""

    @cached_property
    def _by_own_base(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path, inner in self._inner():
            place, slash, stem = inner.rpartition("/")
            if base := self.base_of(stem):
                found.setdefault(same_name(place + slash + base), path)
        return found

    def _named(self, name: Path) -> Path | None:
        """The map for an image of this name, relative to the folder of the images."""
        exact = same_name(name)
        found = self.by_name.get(exact) or self.by_base.get(exact)
        if found is not None:
            return found
        bases = [same_name((name.parent / base).as_posix()) for base in image_bases(name.stem) if base]
        return next((path for base in bases if (path := self.by_name.get(base) or self.by_base.get(base))), None)


def groups_of(folder: Path, reading: Reading) -> list[Group]:
    """The images directly in a folder, and those of each of its folders."""
    found: dict[str, Group] = {}
    depth = len(folder.parts)
    for path in reading.inventory.images_below(folder):
        parts = path.parts
        name = parts[depth] if len(parts) > depth + 1 else HERE
        if name not in found:
            found[name] = Group(name, folder if name == HERE else folder / name, [])
        found[name].images.append(path)
    return list(found.values())


def maps_parted(groups: Sequence[Group]) -> list[Group]:
    """The groups, with conditions/canny and conditions/depth as two, unless the images have such folders, too."""
    if not any(group.name != HERE and role_of(group.name) == MAP for group in groups):
        return list(groups)
    inner = {group.name: {path.relative_to(group.folder).parts[0] for path in group.images} for group in groups}
    others = {name for group in groups if role_of(group.name) != MAP for name in inner[group.name]}
    found: list[Group] = []
    for group in groups:
        folders = {path.relative_to(group.folder).parts[0] for path in group.images if path.parent != group.folder}
        alone = len(folders) == len(inner[group.name]) and not folders & others
        if group.name == HERE or role_of(group.name) != MAP or not alone or any(map(_is_no_kind, folders)):
            found.append(group)
            continue
        for name in sorted(folders):
            images = [path for path in group.images if path.relative_to(group.folder).parts[0] == name]
            found.append(Group(f"{group.name}/{name}", group.folder / name, images))
    return found


def _is_no_kind(name: str) -> bool:
    """Whether a folder of maps holds images, too, so that it is a dataset of its own."""
    return role_of(name) not in (MAP, "")


def shared(images: Sequence[Group], maps: Group) -> float:
    """The fraction of names, of the smaller side, that images and maps have in common."""
    paired = {map for group in images for path in group.images if (map := maps.map_of(path, group)) is not None}
    return len(paired) / max(1, min(sum(len(group.images) for group in images), len(maps.images)))
