"""Images and condition maps in folders of their own, with the same names; or images only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.data.layouts.model import (
    FolderLayout,
    FoundImage,
    Part,
    Reading,
    image_without_map,
    key,
    map_without_image,
)
from engine.data.layouts.words import (
    IGNORED,
    IMAGE,
    MAP,
    is_clear_map,
    is_mask,
    is_split,
    map_endings,
    role_of,
    same_name,
)
from engine.disk.images import load_rgb
from engine.errors import UserError

HERE = "."
"""The name of the part with the images that lie in the folder itself."""
ENOUGH = 0.5  # of the smaller folder's names are those of the other one's
SAMPLES = 4


@dataclass(frozen=True)
class Group:
    """The images of one folder."""

    name: str
    folder: Path
    images: list[Path]

    def by_name(self) -> dict[str, Path]:
        """The images by what they and their partners have in common."""
        return {same_name(path.relative_to(self.folder)): path for path in self.images}


def groups_of(folder: Path, reading: Reading) -> list[Group]:
    """The images directly in a folder, and those of each of its folders."""
    found: dict[str, Group] = {}
    for path in reading.inventory.images_below(folder):
        parts = path.relative_to(folder).parts
        name = parts[0] if len(parts) > 1 else HERE
        if name not in found:
            found[name] = Group(name, folder if name == HERE else folder / name, [])
        found[name].images.append(path)
    return list(found.values())


def find_pairs(folder: Path, reading: Reading) -> list[FoundImage] | None:
    """The images with their maps; None if no folder holds maps of the images in another."""
    groups = groups_of(folder, reading)
    roles = _roles(groups, reading)
    if roles is None:
        return None
    for group in groups:
        reading.add(Part(group.name, "folder", roles[group.name], len(group.images), _examples(group)))
    images = [group for group in groups if roles[group.name] == IMAGE]
    maps = [group for group in groups if roles[group.name] == MAP]
    for group in groups:
        if roles[group.name] == IGNORED:
            asked = group.name in reading.asked
            why = (
                "ignored, as you said"
                if asked
                else f"in {group.name}, which is neither the images' nor the maps' folder"
            )
            reading.leave_out(why, group.images)
    if not maps:
        return [FoundImage(key(path, reading.root), path) for group in images for path in group.images]
    return _pair(images, maps[0], reading)


def _roles(groups: Sequence[Group], reading: Reading) -> dict[str, str] | None:
    """The role of each group. None if there are no maps, and the user did not name any roles."""
    suggested = _suggest(groups, reading)
    asked = any(group.name in reading.asked and not is_split(group.name) for group in groups)
    if suggested is None and not asked:
        return None
    roles = {group.name: reading.role(group.name, (suggested or {}).get(group.name, IMAGE)) for group in groups}
    if asked and list(roles.values()).count(MAP) > 1:
        given = [name for name, role in roles.items() if role == MAP and name in reading.asked]
        if len(given) > 1:
            raise UserError(
                "Only one folder can hold the condition maps.",
                f"{' and '.join(given)} were both called maps.",
                "Make a dataset for each kind of map.",
            )
        roles = {name: IGNORED if role == MAP and name not in given else role for name, role in roles.items()}
    return roles


def _suggest(groups: Sequence[Group], reading: Reading) -> dict[str, str] | None:
    """The most likely role of each group; None if none of them seems to hold maps."""
    by_role: dict[str, list[Group]] = {}
    for group in groups:
        by_role.setdefault(role_of(group.name) if group.name != HERE else "", []).append(group)
    maps, images, others = by_role.get(MAP, []), by_role.get(IMAGE, []), by_role.get("", [])
    if images and maps:
        return _choose(groups, images, maps, reading)
    if maps:
        return _maps_beside_others(groups, maps, others, reading)
    return _equal_names(groups, reading)


def _choose(
    groups: Sequence[Group], images: Sequence[Group], maps: Sequence[Group], reading: Reading
) -> dict[str, str]:
    """Roles where names say what is what. With several folders of maps, the first clear one is taken."""
    ranked = sorted(maps, key=lambda group: (-round(_shared(images, group), 1), is_mask(group.name), group.name))
    chosen = ranked[0]
    if len(maps) > 1:
        names = ", ".join(group.name for group in ranked)
        reading.doubts.append(f"Several folders may hold the condition maps: {names}. {chosen.name} was taken.")
    if len(images) > 1:
        names = ", ".join(group.name for group in images)
        reading.doubts.append(f"Several folders hold images: {names}.")
    return {group.name: MAP if group is chosen else IMAGE if group in images else IGNORED for group in groups}


def _maps_beside_others(
    groups: Sequence[Group], maps: Sequence[Group], others: Sequence[Group], reading: Reading
) -> dict[str, str] | None:
    """Roles where a folder is called maps, but none images: the maps' partners are found by their names."""
    loose = [group for group in others if group.name == HERE]
    for chosen in sorted(maps, key=lambda group: (is_mask(group.name), not is_clear_map(group.name), group.name)):
        if loose and _shared(loose, chosen) > 0:
            return {group.name: MAP if group is chosen else IGNORED if group in maps else IMAGE for group in groups}
        partners = [group for group in [*others, *maps] if group is not chosen and _shared([group], chosen) >= ENOUGH]
        named = [group for group in partners if group in others] or [
            group for group in partners if not is_clear_map(group.name)
        ]
        if named and (is_clear_map(chosen.name) or looks_like_maps(chosen.images, named[0].images)):
            reading.doubts.append(
                f"{chosen.name} has the same names as {named[0].name}: it was taken for the condition maps."
            )
            return {group.name: MAP if group is chosen else IMAGE if group is named[0] else IGNORED for group in groups}
    return None


def _equal_names(groups: Sequence[Group], reading: Reading) -> dict[str, str] | None:
    """Roles of two folders that have the same names, whatever they are called. Their content decides, or the user."""
    folders = [group for group in groups if group.name != HERE and not is_split(group.name) and not _has_roles(group)]
    for number, one in enumerate(folders):
        for other in folders[number + 1 :]:
            alike = min(len(one.images), len(other.images)) >= 2 and _shared([one], other) >= 0.9
            if not alike or not _same_sizes(one, other):
                continue
            pair = next(((a, b) for a, b in ((one, other), (other, one)) if looks_like_maps(b.images, a.images)), None)
            if pair is None:
                reading.doubts.append(
                    f"{one.name} and {other.name} have the same names. If one of them holds the maps, say which."
                )
                return None
            reading.doubts.append(
                f"{pair[1].name} has the same names as {pair[0].name} and looks like its condition maps."
            )
            return {group.name: IMAGE if group is pair[0] else MAP if group is pair[1] else IGNORED for group in groups}
    return None


def _has_roles(group: Group) -> bool:
    """Whether the group's own folders are called images or maps."""
    inner = {part for path in group.images for part in path.relative_to(group.folder).parts[:-1]}
    return any(role_of(part) in (IMAGE, MAP) for part in inner)


def _shared(images: Sequence[Group], maps: Group) -> float:
    """The fraction of names, of the smaller side, that images and maps have in common."""
    wanted = {name for group in images for name in group.by_name()}
    present = set(maps.by_name()) | {same_name(base) for path in maps.images for base, _ in map_endings(path.stem)}
    return len(wanted & present) / max(1, min(len(wanted), len(maps.images)))


def _same_sizes(one: Group, other: Group) -> bool:
    """Whether a few images of one folder have the shapes of their namesakes in the other."""
    partners = other.by_name()
    pairs = [(path, partners[name]) for name, path in sorted(one.by_name().items()) if name in partners][:SAMPLES]
    try:
        return all(_shape(a) == _shape(b) for a, b in pairs)
    except UserError:
        return False


def _shape(path: Path) -> float:
    image = load_rgb(path, at_least=64)
    return round(image.width / image.height, 1)


def looks_like_maps(paths: Sequence[Path], partners: Sequence[Path]) -> bool:
    """Whether a few images are grey or flat, as condition maps are, and their partners are not."""
    return _drawn(paths) and not _drawn(partners)


def _drawn(paths: Sequence[Path]) -> bool:
    """Whether a few images, chosen evenly, are grey or have few colours."""
    votes = []
    for path in list(paths)[:: max(1, len(paths) // SAMPLES)][:SAMPLES]:
        try:
            pixels = np.asarray(load_rgb(path, at_least=64).resize((64, 64), resample=0)).astype(np.int16)
        except UserError:
            continue  # the import tells of it
        grey = float((pixels.max(axis=2) - pixels.min(axis=2)).mean()) < 6
        votes.append(grey or len(np.unique(pixels.reshape(-1, 3), axis=0)) <= 48)
    return bool(votes) and sum(votes) > len(votes) / 2


def _pair(images: Sequence[Group], maps: Group, reading: Reading) -> list[FoundImage]:
    """Images with the maps of their names. What has no partner becomes a problem."""
    by_name = maps.by_name()
    for path in maps.images:  # 1_canny.png is the map of 1.png
        for base, _ in map_endings(path.stem):
            by_name.setdefault(same_name((path.relative_to(maps.folder).parent / base).as_posix()), path)
    found, used = [], set()
    for group in images:
        for path in group.images:
            map = by_name.get(same_name(path.relative_to(group.folder)))
            if map is None:
                reading.problems.append(
                    image_without_map(
                        path,
                        f"There is no file named {path.stem} in {maps.name}.",
                        "Add the map under the image's name, or read only the image folder and make all maps here.",
                    )
                )
                continue
            used.add(map)
            found.append(FoundImage(key(path, reading.root), path, condition=map))
    owner = images[0].name if images and images[0].name != HERE else maps.folder.parent.name
    reading.problems += [map_without_image(path, owner) for path in maps.images if path not in used]
    return found


def find_all(folder: Path, reading: Reading) -> list[FoundImage]:
    """All images of the folder and its subfolders: the layout that always applies."""
    groups = groups_of(folder, reading)
    if len(groups) > 1:
        for group in groups:
            reading.add(Part(group.name, "folder", IMAGE, len(group.images), _examples(group)))
    return [FoundImage(key(path, reading.root), path) for path in reading.inventory.images_below(folder)]


def _examples(group: Group) -> tuple[str, ...]:
    return tuple(str(path) for path in group.images[:3])


PAIRED = FolderLayout("paired", "images and condition maps in two folders", find_pairs)
PLAIN = FolderLayout("plain", "a folder of images", find_all)
