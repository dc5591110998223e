"""Images, maps and captions as a dataset config of another trainer names them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from engine.data.layouts.inventory import below
from engine.data.layouts.model import (
    FolderLayout,
    FoundImage,
    Part,
    Reading,
    image_without_map,
    map_without_image,
)
from engine.data.layouts.trainer_configs.files import ENDINGS, load
from engine.data.layouts.trainer_configs.model import Config, Subset
from engine.data.layouts.trainer_configs.places import elsewhere, existing, inside, inventory_of, together
from engine.data.layouts.trainer_configs.read import read_config, refused, understand
from engine.data.layouts.trainer_configs.subset import images_of
from engine.data.layouts.words import IGNORED, IMAGE, MAP
from engine.data.samples import Problem
from engine.errors import UserError
from engine.machine.units import counted

_MOST_CONFIGS = 20
_LARGEST = 1 << 20  # bytes, of a config that was not named but lies in a folder


def recognize_config(path: Path, asked: Mapping[str, str]) -> tuple[FolderLayout, list[FoundImage], Reading]:
    """The images that a config names, with the folder that its folders have in common as the root.

    Raises UserError if it is no dataset config, or if nothing of what it names is here.
    """
    config = read_config(path)
    if config is None:
        raise refused(path)
    problems: list[Problem] = []
    here = existing(config, problems)
    root, subsets = together(config, here)
    named = [place for subset in subsets for place in (*subset.folders, *subset.others) if _in(place, root)]
    reading = Reading(root, inventory_of(root, named, config, problems), asked, problems)
    return _layout(config), _read(config, subsets, reading), reading


def _in(place: Path, root: Path) -> bool:
    return place == root or root in place.parents


def find(folder: Path, reading: Reading) -> list[FoundImage] | None:
    """The images that a config in the folder names. None without one, or if what it names lies elsewhere."""
    if folder != reading.root:
        return None
    for path in islice(_configs_in(folder, reading), _MOST_CONFIGS):
        problems: list[Problem] = []
        try:
            content = load(path)
        except UserError as error:
            if path.suffix.lower() != ".json":  # these hold all kinds of things, which other layouts read
                reading.notes.append(f"{path.name} was not used: {error.why}")
            continue
        try:
            config = understand(path, content, lists=False)
            here = existing(config, problems) if config else []
        except UserError as error:
            reading.notes.append(f"{path.name} was not used: {error.what} {error.why}")
            continue
        if config is None:
            continue
        subsets = [moved for subset in here if (moved := inside(subset, folder)) is not None]
        if not any(subset.images and not subset.why_not for subset in subsets):
            reading.notes.append(
                f"{path.name} is a dataset config of {config.tool}, but its folders lie outside of {folder.name}. "
                "To read them, choose the file itself."
            )
            continue
        trial = reading.attempt()
        try:
            found = _read(config, subsets, trial)
        except UserError as error:
            reading.notes.append(f"{path.name} was not used: {error.what} {error.why}")
            return None
        if strange := [name for name in reading.asked if name not in trial.parts]:
            reading.notes.append(f"{path.name} was not used, since it does not name {', '.join(strange)}.")
            return None
        if not found:
            reading.notes.append(f"{path.name} was not used, since none of the images that it names can be used.")
            continue
        reading.accept(trial)
        reading.notes.append(f"The roles come from {path.name}, a dataset config of {config.tool}.")
        reading.problems += problems
        if len(subsets) < len(here):
            kept = {subset.title for subset in subsets}
            reading.notes.append(elsewhere(config, [subset for subset in here if subset.title not in kept]))
        return found
    return None


CONFIGURED = FolderLayout("trainer_config", "folders named in another trainer's dataset config", find)


def _layout(config: Config) -> FolderLayout:
    return replace(CONFIGURED, title=f"a dataset config of {config.tool} ({config.path.name})")


def _configs_in(folder: Path, reading: Reading) -> Iterator[Path]:
    """Files in the folder itself that may be configs. JSON files of an image are not."""
    stems = {path.stem for path in reading.inventory.images if path.parent == folder}
    for path in (*reading.inventory.others, *reading.inventory.lists):
        if path.parent == folder and path.suffix.lower() in ENDINGS and path.stem not in stems:
            try:
                small = path.stat().st_size <= _LARGEST
            except OSError:
                small = False  # it stays unused, which the folder's file usage tells
            if small:
                yield path


def _read(config: Config, subsets: list[Subset], reading: Reading) -> list[FoundImage]:
    """The images of all subsets. Raises UserError if other roles were asked for than the config gives."""
    subsets = [_as_asked(_with_others_in(subset, reading.root), config, reading) for subset in subsets]
    in_pairs = any(_has_maps(subset, reading) for subset in subsets if not subset.why_not)
    taken: dict[Path, FoundImage] = {}
    again, used_maps = 0, set()
    for subset in subsets:
        if subset.why_not or subset.images is None:
            continue
        found = images_of(subset, subsets, reading)
        if in_pairs and not _has_maps(subset, reading):
            reading.leave_out(
                f"in {subset.images.name}, for which {config.path.name} names no maps, although it does for others",
                [item.image for item in found],
            )
            found = []
        elif not found:
            reading.problems.append(_empty(subset, subset.images, config))
        for item in found:
            before = taken.get(item.image)
            if before is not None and before.condition != item.condition and item.condition is not None:
                reading.problems.append(_second_map(item, item.condition, before, config))
            elif before is not None:
                again += 1
            elif in_pairs and item.condition is None:
                reading.problems.append(_no_map(item, subset, config))
            else:
                taken[item.image] = item
                used_maps.add(item.condition)
    _tell_of_the_rest(config, subsets, reading, taken, used_maps)
    if again:
        reading.notes.append(
            f"{counted(again, 'image is', 'images are')} named more than once in {config.path.name}; each counts once."
        )
    reading.notes += config.notes
    known = {*reading.inventory.lists, *reading.inventory.others, *reading.inventory.texts, *reading.inventory.archives}
    lists = {config.path, *(path for subset in subsets for path in subset.lists)}
    reading.lists += sorted(lists & known)
    return list(taken.values())


def _as_asked(subset: Subset, config: Config, reading: Reading) -> Subset:
    """The subset with the roles that the user gave to its folders, which may be ignored, but nothing else."""
    ignored = []
    for folder, role in ((subset.images, IMAGE), (subset.maps, MAP)):
        if folder is None or subset.why_not:
            continue
        name = _name(folder, reading.root)
        given = reading.role(name, role)
        if given not in (role, IGNORED):
            raise UserError(
                f"{name} cannot be {given}.",
                f"{config.path.name} says that it contains the {role}s.",
                f"Set its role to {role} or ignored, or choose the folder itself, without the config.",
            )
        count = sum(1 for _ in below(reading.inventory.images, folder))
        examples = tuple(map(str, islice(below(reading.inventory.images, folder), 3)))
        if name not in reading.parts:
            reading.add(Part(name, "folder", given, count, examples))
        ignored += [folder] if given == IGNORED else []
    if subset.images in ignored:
        return replace(subset, why_not="is ignored, as you said")
    return (
        replace(subset, maps=None, others=(*subset.others, subset.maps))
        if subset.maps in ignored and subset.maps
        else subset
    )


def _with_others_in(subset: Subset, root: Path) -> Subset:
    """The subset without folders of masks that lie outside of the root, or that hold the images as well."""
    images = subset.images
    others = [place for place in subset.others if _in(place, root) and not (images and _in(images, place))]
    return replace(subset, others=tuple(others))


def _has_maps(subset: Subset, reading: Reading) -> bool:
    if subset.maps is not None or any(entry.map for entry in subset.entries or ()):
        return True
    ending = subset.map_ending
    return bool(
        ending
        and subset.images
        and any(path.stem.endswith(ending) for path in below(reading.inventory.images, subset.images))
    )


def _name(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix()


def _tell_of_the_rest(
    config: Config, subsets: list[Subset], reading: Reading, taken: Mapping[Path, FoundImage], maps: set[Path | None]
) -> None:
    """Give a reason for each image that was not taken."""
    gone = {*taken, *maps, *(problem.path for problem in reading.problems)}
    gone |= {path for paths in reading.left_out.values() for path in paths}
    for subset in subsets:
        if subset.why_not:
            reading.notes.append(f"{subset.title} {subset.why_not}: left out.")
            if subset.images:
                own = [path for path in below(reading.inventory.images, subset.images) if path not in gone]
                reading.leave_out(f"in {subset.images.name}, which {subset.why_not}", own)
                gone.update(own)
        if subset.others or subset.mask_ending:
            inside = [path for place in subset.others for path in below(reading.inventory.images, place)]
            ending = subset.mask_ending
            if ending and subset.images:
                inside += [p for p in below(reading.inventory.images, subset.images) if p.stem.endswith(ending)]
            masks = [path for path in dict.fromkeys(inside) if path not in gone]
            reading.leave_out("that are masks or further maps", masks)
            gone.update(masks)
        if subset.maps and subset.images and not subset.why_not:
            lonely = [path for path in below(reading.inventory.images, subset.maps) if path not in gone]
            further = _further_maps(lonely, taken)
            reading.leave_out("that are masks or further maps", further)
            gone.update(further)
            lonely = [path for path in lonely if path not in gone]
            reading.problems += [map_without_image(path, subset.images.name) for path in lonely]
            gone.update(lonely)
    rest = [path for path in reading.inventory.images if path not in gone]
    reading.leave_out(f"not named in {config.path.name}", rest)


def _further_maps(paths: list[Path], taken: Mapping[Path, FoundImage]) -> list[Path]:
    """Those of the paths that are the second or a later map of an image: 1_1.png beside 1_0.png, or 1/b.png."""
    used = {item.condition: item.image.stem for item in taken.values() if item.condition is not None}
    numbered = {(map.parent, _unnumbered(map.stem)) for map in used}
    folders = {map.parent for map, stem in used.items() if map.parent.name == stem}
    return [path for path in paths if path.parent in folders or (path.parent, _unnumbered(path.stem)) in numbered]


def _unnumbered(stem: str) -> str:
    return re.sub(r"_\d+$", "", stem)


def _empty(subset: Subset, folder: Path, config: Config) -> Problem:
    return Problem(
        folder,
        f"There are no images of {subset.title} in {folder.name}.",
        f"{config.path.name} names this folder"
        + ("." if subset.deep else ", without its subfolders.")
        + (" None of the images in its list exists." if subset.only_listed else ""),
        "Correct the path, and read it again.",
    )


def _second_map(item: FoundImage, map: Path, before: FoundImage, config: Config) -> Problem:
    return Problem(
        map,
        f"{config.path.name} names {item.image.name} with several maps.",
        f"{before.condition} is used; {map} is left out.",
        "Make a copy of the image under another name for the second map.",
    )


def _no_map(item: FoundImage, subset: Subset, config: Config) -> Problem:
    place = f"in {subset.maps.name}" if subset.maps else "named for it"
    return image_without_map(
        item.image,
        f"There is no map {place}, but {config.path.name} names maps.",
        "Add the map under the image's name, or read only the image folder and make all maps in this app.",
    )
