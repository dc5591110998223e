"""Folders named 10_name, as for kohya's scripts: the repeats, then a text that replaces missing captions."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from engine.data.layouts.model import (
    CONDITION_FOLDERS,
    IMAGE_FOLDERS,
    FolderLayout,
    FoundImage,
    caption_file,
    image_files,
    image_without_map,
    key,
    map_without_image,
    stem,
    subfolder,
)
from engine.data.samples import Problem

CONDITIONS = (*CONDITION_FOLDERS, "conditioning_data", "cond")
REGULARISATION = ("reg", "regularization", "regularisation", "log", "model")  # beside img in kohya's folder tree
_REPEATS = re.compile(r"[1-9]\d{0,2}_(.*\S.*)")  # at most three digits: 2019_summer is a year


def find(folder: Path, problems: list[Problem]) -> list[FoundImage] | None:
    """The images in subfolders named like 10_name, with maps if there are any; None without such a subfolder."""
    base = next((place for place in (folder, subfolder(folder, ("img", *IMAGE_FOLDERS))) if _fits(place)), None)
    if base is None:
        return None
    conditions = subfolder(folder, CONDITIONS) or subfolder(base, CONDITIONS)
    images = [
        (path, subset)
        for subset in sorted(base.iterdir())
        if subset.is_dir() and _REPEATS.fullmatch(subset.name)
        for path in image_files(subset, problems)
    ]
    maps = {stem(path, conditions): path for path in image_files(conditions)} if conditions else {}
    names = Counter(path.stem for path, _ in images)
    found, used = [], set()
    for path, subset in images:
        # Maps lie in the same folders as the images, or all in one folder if the images' names are unique.
        choices = [stem(path, base), *([path.stem] if names[path.stem] == 1 else [])]
        name = next((choice for choice in choices if choice in maps), None)
        if conditions and name is None:
            problems.append(
                image_without_map(
                    path,
                    f"There is neither {choices[0]} in {conditions.name} nor an unambiguous {path.stem}.",
                    f"Add the map as {choices[0]}, or move {conditions.name} elsewhere and make all maps here.",
                )
            )
            continue
        if name is not None:
            used.add(name)
        caption = None if caption_file(path) else _words(subset)
        found.append(FoundImage(key(path, folder), path, caption, maps[name] if name is not None else None))
    problems += [map_without_image(path, "the 10_name folders") for name, path in maps.items() if name not in used]
    return found


def _fits(base: Path | None) -> bool:
    """Whether every image lies in a folder with repeats, so that this layout loses none."""
    if base is None:
        return False
    some = False
    for path in image_files(base):
        parts = path.relative_to(base).parts
        if parts[0].lower() in (*CONDITIONS, *REGULARISATION) and len(parts) > 1:
            continue
        if len(parts) == 1 or not _REPEATS.fullmatch(parts[0]):
            return False
        some = True
    return some


def _words(subset: Path) -> str:
    match = _REPEATS.fullmatch(subset.name)
    assert match  # called for such folders only
    return match[1].strip()


KOHYA = FolderLayout("kohya", "kohya folders such as 10_name (each image counts once, whatever the number)", find)
