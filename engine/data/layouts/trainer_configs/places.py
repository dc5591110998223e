"""Where the folders of a dataset config lie, which of them can be read together, and what files they hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.data.layouts.inventory import Inventory, take_inventory
from engine.data.layouts.trainer_configs.model import Config, Subset
from engine.data.samples import Problem
from engine.errors import UserError


def existing(config: Config, problems: list[Problem]) -> list[Subset]:
    """The subsets whose folders exist. Each of the others becomes a problem. Raises UserError if none exists."""
    wanted = [subset for subset in config.subsets if not subset.why_not]
    good = [subset for subset in wanted if not subset.missing and not _unusable(subset)]
    if not good:
        raise UserError(
            f"None of the paths in {config.path.name} can be read.",
            _why_nothing(config, wanted),
            f"Correct the paths, put the folders next to {config.path.name}, or choose the folder with your images.",
        )
    for subset in wanted:
        if subset not in good:
            problems.append(
                Problem(
                    config.path,
                    f"{subset.title} in {config.path.name} was left out.",
                    _not_here(subset.missing) or _unusable(subset),
                    "Correct the path, or put the folder next to the config, and read it again.",
                )
            )
    unread = [subset for subset in config.subsets if subset.why_not]
    return good + [subset for subset in unread if subset.images is None or subset.images.is_dir()]


def _why_nothing(config: Config, wanted: list[Subset]) -> str:
    """Why no subset can be read."""
    left = "; ".join(f"{subset.title} {subset.why_not}" for subset in config.subsets if subset.why_not)
    others = " ".join(dict.fromkeys(_unusable(subset) for subset in wanted))
    missing = _not_here([path for subset in wanted for path in subset.missing])
    return missing or others or f"{left or f'As a config of {config.tool}, it has no datasets'}."


def _not_here(paths: Sequence[str]) -> str:
    return f"Not found: {', '.join(dict.fromkeys(paths))}." if paths else ""


def _unusable(subset: Subset) -> str:
    """Why a subset whose paths exist cannot be read. Empty: it can."""
    if subset.images is None:
        return "It names no folder of images."
    if files := [str(place) for place in subset.folders if not place.is_dir()]:
        return f"{' and '.join(files)} is a file, not a folder."
    return f"It names {subset.images.name} for the images and for the maps." if subset.images == subset.maps else ""


def together(config: Config, subsets: list[Subset]) -> tuple[Path, list[Subset]]:
    """The folder that the subsets have in common, and those that lie in it: the first one decides."""
    root: Path | None = None
    kept: list[Subset] = []
    for subset in subsets:
        common = folder_in_common([*([root] if root else []), *subset.folders])
        if subset.why_not and (root is None or common != root):
            kept.append(replace(subset, images=None, maps=None, others=()))
        elif common is not None:
            root = common
            kept.append(subset)
    left = [subset for subset in subsets if subset.title not in _titles(kept)]
    if root is None:
        folders = " and ".join(map(str, subsets[0].folders))
        raise UserError(
            f"The images and maps of {config.path.name} cannot be read together.",
            f"{folders} have no parent folder in common.",
            "Move both into one folder and choose that, or choose the folder of images and make the maps in this app.",
        )
    if left:
        config.notes.append(elsewhere(config, left))
    return root, kept


def elsewhere(config: Config, left: list[Subset]) -> str:
    places = ", ".join(str(subset.images or subset.title) for subset in left)
    return (
        f"{places}: left out, since it has no parent folder in common with the rest of {config.path.name}. Read "
        "it as a separate dataset."
    )


def _titles(subsets: list[Subset]) -> set[str]:
    return {subset.title for subset in subsets}


def folder_in_common(folders: list[Path]) -> Path | None:
    """The folder that holds all of these. None for a whole disk, or for folders on several disks."""
    try:
        common = Path(os.path.commonpath(folders))
    except ValueError:
        return None
    return common if common.parent != common else None


def inside(subset: Subset, root: Path) -> Subset | None:
    """The subset with its folders as paths below a root, also if links lead there. None if they lie elsewhere.

    Nor may its lists, since config and folder may come from someone else.
    """
    try:
        lists = tuple(root / listing.resolve().relative_to(root.resolve()) for listing in subset.lists)
        images, maps = (
            place and root / place.resolve().relative_to(root.resolve()) for place in (subset.images, subset.maps)
        )
        real = [place.resolve() for place in subset.others]
        others = tuple(root / place.relative_to(root.resolve()) for place in real if root.resolve() in place.parents)
    except (ValueError, OSError):
        return None
    return replace(subset, images=images, maps=maps, others=others, lists=lists)


def _holds_home(root: Path) -> bool:
    try:
        home = Path.home()
    except RuntimeError:  # a user without a name or a home folder
        return False
    return root == home or root in home.parents


def inventory_of(root: Path, named: list[Path], config: Config, problems: list[Problem]) -> Inventory:
    """The files of the root, if the config lies in it or above it; otherwise only those of the folders it names.

    A root that happens to be the parent of these folders may hold anything, such as all of the user's datasets.
    """
    place = config.path.parent
    if (place == root or place in root.parents) and not _holds_home(root):
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
