"""Folders named 10_name, as for kohya's scripts: the repeats, then a text that replaces missing captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from engine.data.balance import REPEATS
from engine.data.layouts.model import FolderLayout, FoundImage, Reading, image_without_map, key, map_without_image
from engine.data.layouts.words import IMAGE, MAP, is_clear_map, role_of, same_name
from engine.machine.units import counted, plural

REGULARISATION = ("reg", "regularization", "regularisation", "log", "model")  # beside img in kohya's folder tree


def find(folder: Path, reading: Reading) -> list[FoundImage] | None:
    """The images in subfolders named like 10_name, with maps if there are any; None without such a subfolder."""
    base = next((place for place in (folder, _images_folder(folder, reading)) if _fits(place, reading)), None)
    if base is None:
        return None
    below_base = reading.inventory.images_below(base)
    conditions = _maps_folder(folder, reading) or _maps_folder(base, reading)
    images = [path for path in below_base if REPEATS.fullmatch(path.relative_to(base).parts[0])]
    inside = [path for path in images if any(is_clear_map(name) for name in path.relative_to(base).parts[1:-1])]
    if inside:  # 10_cat/mask/1.png
        within = inside[0].parent.name
        images = sorted(set(images).difference(inside))
        reading.leave_out(f"in folders such as {within} inside the 10_name folders", inside)
        reading.doubts.append(
            f"{counted(len(inside), 'image')} in folders such as {within} "
            f"{plural(len(inside), 'was left out: it may be a map', 'were left out: they may be maps')}."
        )
    maps = {}
    if conditions:
        maps = {_name(path, conditions): path for path in reading.inventory.images_below(conditions)}
    names = Counter(same_name(path.stem) for path in images)
    found, used = [], set()
    for path in images:
        # Maps lie in the same folders as the images, or all in one folder if the images' names are unique.
        alone = same_name(path.stem)
        choices = [_name(path, base), *([alone] if names[alone] == 1 else [])]
        name = next((choice for choice in choices if choice in maps), None)
        if conditions and name is None:
            reading.problems.append(
                image_without_map(
                    path,
                    f"{conditions.name} contains neither {path.relative_to(base).with_suffix('').as_posix()} nor "
                    f"an unambiguous {path.stem}.",
                    f"Add the map under this name, or move {conditions.name} elsewhere and make all maps in this app.",
                )
            )
            continue
        if name is not None:
            used.add(name)
        map = maps[name] if name is not None else None
        found.append(FoundImage(key(path, reading.root), path, condition=map, otherwise=_words(path, base)))
    reading.problems += [
        map_without_image(path, "the 10_name folders") for name, path in maps.items() if name not in used
    ]
    taken = {*images, *maps.values()}
    rest = [path for path in reading.inventory.images_below(folder) if path not in taken]
    reading.leave_out("in kohya's folder for regularization images, or outside the 10_name folders", rest)
    return found


def _name(path: Path, folder: Path) -> str:
    return same_name(path.relative_to(folder))


def _images_folder(folder: Path, reading: Reading) -> Path | None:
    """The folder named img or images, if there is one."""
    return _subfolder(folder, reading, lambda name: role_of(name) == IMAGE)


def _maps_folder(folder: Path, reading: Reading) -> Path | None:
    """The folder with conditioning images, if there is one."""
    return _subfolder(folder, reading, lambda name: role_of(name) == MAP and not REPEATS.fullmatch(name))


def _subfolder(folder: Path, reading: Reading, wanted: Callable[[str], bool]) -> Path | None:
    return next((folder / name for name in sorted(_folders(folder, reading)) if wanted(name)), None)


def _folders(folder: Path, reading: Reading) -> set[str]:
    """The names of the folders in a folder that hold images."""
    return {
        path.relative_to(folder).parts[0] for path in reading.inventory.images_below(folder) if path.parent != folder
    }


def _fits(base: Path | None, reading: Reading) -> bool:
    """Whether every image lies in a folder with repeats, so that this layout loses none."""
    if base is None:
        return False
    some = False
    repeated = {match[2] for folder in _folders(base, reading) if (match := REPEATS.fullmatch(folder))}
    if {IMAGE, MAP} <= {role_of(name) for name in repeated}:
        return False  # 1_images beside 2_conditions: numbers, not repeats
    for path in reading.inventory.images_below(base):
        parts = path.relative_to(base).parts
        apart = parts[0].lower() in REGULARISATION or role_of(parts[0]) == MAP
        if len(parts) > 1 and REPEATS.fullmatch(parts[0]):
            some = True
        elif len(parts) == 1 or not apart:
            return False
    return some


def _words(path: Path, base: Path) -> str:
    match = REPEATS.fullmatch(path.relative_to(base).parts[0])
    assert match  # checked by the caller
    return match[2].strip()


KOHYA = FolderLayout(
    "kohya",
    "kohya folders such as 10_name (Class balance on the Train tab can draw images as often as the numbers say)",
    find,
)
