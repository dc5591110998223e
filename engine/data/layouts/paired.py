"""Two folders: pictures, and condition maps under the same names."""

from __future__ import annotations

from pathlib import Path

from engine.data.layouts.model import (
    CONDITION_FOLDERS,
    IMAGE_FOLDERS,
    Found,
    Layout,
    caption_beside,
    key,
    map_without_picture,
    picture_without_map,
    pictures,
    stem,
    subfolder,
)
from engine.data.samples import Problem


def find(folder: Path, problems: list[Problem]) -> list[Found] | None:
    images, conditions = subfolder(folder, IMAGE_FOLDERS), subfolder(folder, CONDITION_FOLDERS)
    if not images or not conditions:
        return None
    maps = {stem(path, conditions): path for path in pictures(conditions)}
    found, used = [], set()
    for path in pictures(images):
        name = stem(path, images)
        if name in maps:
            used.add(name)
            found.append(Found(key(path, folder), path, caption_beside(path), maps[name]))
        else:
            problems.append(
                picture_without_map(
                    path,
                    f"There is no file named {Path(name).name} in {conditions.name}.",
                    "Add the map under the picture's name, or choose the picture folder alone and make all maps here.",
                )
            )
    problems += [map_without_picture(path, images.name) for name, path in maps.items() if name not in used]
    return found


PAIRED = Layout("paired", "pictures and condition maps in two folders", find)
