"""Images and condition maps with the same names: in two folders, or the maps in a folder beside the images."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from engine.data.layouts.model import (
    CONDITION_FOLDERS,
    IMAGE_FOLDERS,
    FolderLayout,
    FoundImage,
    image_files,
    image_without_map,
    key,
    map_without_image,
    stem,
    subfolder,
)
from engine.data.samples import Problem
from engine.disk.images import EXTENSIONS


def find(folder: Path, problems: list[Problem]) -> list[FoundImage] | None:
    """The images with their maps; None without a folder of maps, or without a folder of images or matching images."""
    images, conditions = subfolder(folder, IMAGE_FOLDERS), subfolder(folder, CONDITION_FOLDERS)
    if not conditions:
        return None
    maps = {stem(path, conditions): path for path in image_files(conditions, problems)}
    if images is None and not _loose_partners(folder, maps):
        return None
    found, used = [], set()
    for path in image_files(images or folder, problems):
        if images is None and path.is_relative_to(conditions):
            continue
        name = stem(path, images or folder)
        if name in maps:
            used.add(name)
            found.append(FoundImage(key(path, folder), path, condition=maps[name]))
        else:
            problems.append(
                image_without_map(
                    path,
                    f"There is no file named {Path(name).name} in {conditions.name}.",
                    "Add the map under the image's name, or read only the image folder and make all maps here.",
                )
            )
    problems += [map_without_image(path, (images or folder).name) for name, path in maps.items() if name not in used]
    return found


def _loose_partners(folder: Path, maps: Collection[str]) -> bool:
    """Whether images beside the folder of maps have the maps' names. Otherwise, maps could be mistaken for images."""
    with os.scandir(folder) as entries:
        return any(
            entry.is_file() and Path(entry.name).suffix.lower() in EXTENSIONS and Path(entry.name).stem in maps
            for entry in entries
        )


PAIRED = FolderLayout("paired", "images and condition maps in two folders", find)
