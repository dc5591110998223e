"""Images and condition maps in folders of their own, with the same names; or images only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from engine.data.layouts.groups import HERE, Group, groups_of, maps_parted, shared
from engine.data.layouts.looks import evenly, looks_like_maps, mostly_drawn, same_aspect_ratios
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
    role_of,
    validation_names,
)
from engine.errors import UserError

ENOUGH = 0.5  # of the smaller folder's names are those of the other one's
_MOST_NAMESAKES = 8
"""The most folders containing the same names that are compared with each other."""


def find_pairs(folder: Path, reading: Reading) -> list[FoundImage] | None:
    """The images with their maps; None if no folder holds maps of the images in another."""
    groups = maps_parted(groups_of(folder, reading))
    kept = validation_names(group.name for group in groups if not is_split(group.name))
    kept = {name for name in kept if name not in reading.asked}
    roles = _roles([group for group in groups if group.name not in kept], reading)
    if roles is None:
        return None
    for group in groups:
        if group.name in kept:
            roles[group.name] = IGNORED
            reading.doubts.append(f"{group.name} was left out: it is kept for validation.")
    for group in groups:
        reading.add(Part(group.name, "folder", roles[group.name], len(group.images), _examples(group)))
    images = [group for group in groups if roles[group.name] == IMAGE]
    maps = [group for group in groups if roles[group.name] == MAP]
    for group in groups:
        if roles[group.name] == IGNORED:
            why = f"in {group.name}, which is neither the images' nor the maps' folder"
            if group.name in reading.asked:
                why = "ignored, as you said"
            elif group.name in kept:
                why = f"in {group.name}, which is kept for validation"
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
                "Only one folder can contain the condition maps.",
                f"{' and '.join(given)} were both given the role map.",
                "Make one dataset for each kind of map.",
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
        return _maps_beside_others(groups, maps, others, reading) or _equal_names(groups, reading)
    return _equal_names(groups, reading)


def _choose(
    groups: Sequence[Group], images: Sequence[Group], maps: Sequence[Group], reading: Reading
) -> dict[str, str]:
    """Roles where names say what is what. With several folders of maps, the first clear one is taken."""
    ranked = sorted(maps, key=lambda group: (-round(shared(images, group), 1), is_mask(group.name), group.name))
    chosen = ranked[0]
    if shared(images, chosen) == 0:
        reading.doubts.append(
            f"No file in {chosen.name} has the same name as an image in {images[0].name}: the images were read "
            "without maps."
        )
        return {group.name: IMAGE if group in images else IGNORED for group in groups}
    if len(maps) > 1:
        names = ", ".join(group.name for group in ranked)
        reading.doubts.append(f"Several folders may contain the condition maps: {names}. {chosen.name} was used.")
    if len(images) > 1:
        names = ", ".join(group.name for group in images)
        reading.doubts.append(f"Several folders contain images: {names}.")
    if len(images) == len(maps) == 1 and not is_clear_map(chosen.name):
        if looks_like_maps(images[0].images, chosen.images):
            chosen, images = images[0], [chosen]
            reading.doubts.append(
                f"Judging by the contents, {chosen.name} contains the condition maps, and {images[0].name} the images."
            )
        elif not mostly_drawn(chosen.images):
            reading.doubts.append(
                f"{chosen.name} was used for the condition maps because of its name, not its contents."
            )
    return {group.name: MAP if group is chosen else IMAGE if group in images else IGNORED for group in groups}


def _maps_beside_others(
    groups: Sequence[Group], maps: Sequence[Group], others: Sequence[Group], reading: Reading
) -> dict[str, str] | None:
    """Roles where a folder is called maps, but none images: the maps' partners are found by their names."""
    loose = [group for group in others if group.name == HERE]
    holders: dict[str, list[Group]] = {}
    for group in [*others, *maps]:
        for name in group.names:
            holders.setdefault(name, []).append(group)
    for chosen in sorted(maps, key=lambda group: (is_mask(group.name), not is_clear_map(group.name), group.name)):
        if loose and shared(loose, chosen) > 0:
            if len(others) > 1:
                names = ", ".join(group.name for group in others if group.name != HERE)
                reading.doubts.append(f"{chosen.name} was used for the condition maps; {names} also for images.")
            return {group.name: MAP if group is chosen else IGNORED if group in maps else IMAGE for group in groups}
        alike = {group.name for name in chosen.names for group in holders[name][:_MOST_NAMESAKES]} - {chosen.name}
        partners = [group for group in [*others, *maps] if group.name in alike and shared([group], chosen) >= ENOUGH]
        named = [group for group in partners if group in others] or [
            group for group in partners if not is_clear_map(group.name)
        ]
        if named and (is_clear_map(chosen.name) or looks_like_maps(chosen.images, named[0].images)):
            reading.doubts.append(
                f"{chosen.name} contains the same file names as {named[0].name}: it was used for the condition maps."
            )
            return {group.name: MAP if group is chosen else IMAGE if group is named[0] else IGNORED for group in groups}
    return None


def _equal_names(groups: Sequence[Group], reading: Reading) -> dict[str, str] | None:
    """Roles of two folders that have the same names, whatever they are called. Their content decides, or the user."""
    for one, other in _namesakes([group for group in groups if not is_split(group.name) and not _has_roles(group)]):
        partners = other.by_name
        pairs = [(path, partners[name]) for name, path in sorted(one.by_name.items()) if name in partners]
        if not same_aspect_ratios(evenly(pairs)):
            continue
        pair = next(((a, b) for a, b in ((one, other), (other, one)) if looks_like_maps(b.images, a.images)), None)
        if pair is None:
            reading.doubts.append(
                f"{_title(one)} and {_title(other)} contain the same file names. If one of them contains the "
                "maps, say which."
            )
            return None
        reading.doubts.append(
            f"{_title(pair[1])} contains the same file names as {_title(pair[0])} and looks like its condition maps."
        )
        return {group.name: IMAGE if group is pair[0] else MAP if group is pair[1] else IGNORED for group in groups}
    return None


def _namesakes(groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """Pairs of groups of which nearly all names, of the smaller one, are the same. Quick for thousands of groups."""
    holders: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        for name in group.by_name:
            holders.setdefault(name, []).append(number)
    common: Counter[tuple[int, int]] = Counter()
    for numbers in holders.values():
        common.update(combinations(numbers[:_MOST_NAMESAKES], 2))
    for (first, second), count in sorted(common.items()):
        smaller = min(len(groups[first].images), len(groups[second].images))
        if smaller >= 2 and count >= 0.9 * smaller:
            yield groups[first], groups[second]


def _title(group: Group) -> str:
    return group.folder.name


def _has_roles(group: Group) -> bool:
    """Whether the group's own folders are called images or maps."""
    inner = {part for path in group.images for part in path.relative_to(group.folder).parts[:-1]}
    return any(role_of(part) in (IMAGE, MAP) for part in inner)


def _pair(images: Sequence[Group], maps: Group, reading: Reading) -> list[FoundImage]:
    """Images with the maps of their names. What has no partner becomes a problem."""
    found, used = [], set()
    for group in images:
        for path in group.images:
            map = maps.map_of(path, group)
            if map is None:
                reading.problems.append(
                    image_without_map(
                        path,
                        f"There is no file named {path.stem} in {maps.name}.",
                        "Add the map under the image's name, or read only the image folder and make all maps in "
                        "this app.",
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
