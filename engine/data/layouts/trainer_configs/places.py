"""Where the folders of a dataset config lie, which of them can be read together, and what files they hold."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from engine.data.layouts.inventory import Inventory, take_inventory
from engine.data.layouts.trainer_configs.model import Config, Subset
from engine.data.samples import Problem
from engine.errors import UserError


def existing(config: Config, problems: list[Problem]) -> list[Subset]:
    """The subsets whose folders exist. Each of the others becomes a problem. Raises UserError if none exists."""
    wanted = [subset for subset in config.subsets if not subset.why_not]
    good = [subset for subset in wanted if subset.images and subset.images.is_dir() and not subset.missing]
    if not good:
        missing = [path for subset in wanted for path in subset.missing]
        reasons = [f"{subset.title} {subset.why_not}" for subset in config.subsets if subset.why_not]
        raise UserError(
            f"Nothing that {config.path.name} names can be read.",
            f"Not here: {', '.join(missing)}."
            if missing
            else f"{'; '.join(reasons)}."
            if reasons
            else f"As a dataset config of {config.tool}, it names no folder of images.",
            f"Correct the paths, put the folders beside {config.path.name}, or choose the folder with your images.",
        )
    for subset in wanted:
        if subset not in good:
            why = f"Not here: {', '.join(subset.missing)}." if subset.missing else "It names no folder of images."
            problems.append(
                Problem(
                    config.path,
                    f"{subset.title} in {config.path.name} was left out.",
                    why,
                    "Correct the path, or put the folder beside the config, and read it again.",
                )
            )
    unread = [subset for subset in config.subsets if subset.why_not]
    return good + [subset for subset in unread if subset.images is None or subset.images.is_dir()]


def together(config: Config, subsets: list[Subset]) -> tuple[Path, list[Subset]]:
    """The folder that the subsets have in common, and those that lie in it: the first one decides."""
    root: Path | None = None
    kept: list[Subset] = []
    for subset in subsets:
        common = _common([*([root] if root else []), *subset.folders])
        if subset.why_not and (root is None or common != root):
            kept.append(replace(subset, images=None, maps=None, masks=None))
        elif common is not None:
            root = common
            kept.append(subset)
    left = [subset for subset in subsets if subset.title not in _titles(kept)]
    if root is None:
        folders = " and ".join(map(str, subsets[0].folders))
        raise UserError(
            f"The images and maps of {config.path.name} cannot be read together.",
            f"{folders} have no folder in common.",
            "Move both into one folder and choose that, or choose the folder of images and make the maps here.",
        )
    if left:
        config.notes.append(elsewhere(config, left))
    return root, kept


def elsewhere(config: Config, left: list[Subset]) -> str:
    places = ", ".join(str(subset.images or subset.title) for subset in left)
    return (
        f"{places}: left out, since it has no folder in common with the rest of {config.path.name}. "
        "Read it as another dataset."
    )


def _titles(subsets: list[Subset]) -> set[str]:
    return {subset.title for subset in subsets}


def _common(folders: list[Path]) -> Path | None:
    """The folder that holds all of these. None for a whole disk, or for folders on several disks."""
    try:
        common = Path(os.path.commonpath(folders))
    except ValueError:
        return None
    return common if common.parent != common else None


def inside(subset: Subset, root: Path) -> Subset | None:
    """The subset with its folders as paths below a root, also if links lead there. None if they lie elsewhere."""
    try:
        images, maps, masks = (
            place and root / place.resolve().relative_to(root.resolve())
            for place in (subset.images, subset.maps, subset.masks)
        )
    except (ValueError, OSError):
        return None
    return replace(subset, images=images, maps=maps, masks=masks)


def inventory_of(root: Path, named: list[Path], config: Config, problems: list[Problem]) -> Inventory:
    """The files of the root, if the config lies in it or above it; otherwise only those of the folders it names.

    A root that happens to be the parent of these folders may hold anything, such as all of somebody's datasets.
    """
    place = config.path.parent
    home = Path.home()
    if (place == root or place in root.parents) and root != home and root not in home.parents:
        return take_inventory(root, problems)
    found = Inventory(root)
    tops = sorted({folder for folder in named if not any(other in folder.parents for other in named)})
    for folder in tops:
        one = take_inventory(folder, problems)
        for kind in ("images", "texts", "lists", "archives", "others"):
            getattr(found, kind).extend(getattr(one, kind))
        for format, paths in one.unread.items():
            found.unread.setdefault(format, []).extend(paths)
        found.hidden += one.hidden
    if root in config.path.parents and not any(top in config.path.parents for top in tops):
        found.lists.append(config.path)
    return found
