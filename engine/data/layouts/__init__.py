"""Folder layouts: the list of all in the order in which they are tried, and how a folder is recognized.

To add one: a module with a ``find`` function and its ``FolderLayout`` (see ``endings.py``), a line in the list, a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from engine.data.layouts.captions import CaptionFinder
from engine.data.layouts.doubts import ask_about_maps, without_validation
from engine.data.layouts.endings import ENDINGS, find_few
from engine.data.layouts.folders import PAIRED, PLAIN
from engine.data.layouts.groups import groups_of
from engine.data.layouts.halves import read_halves
from engine.data.layouts.img2dataset import IMG2DATASET
from engine.data.layouts.inventory import check_search, take_inventory
from engine.data.layouts.kohya import KOHYA
from engine.data.layouts.listed import LISTS
from engine.data.layouts.model import FolderLayout, FoundImage, Part, Reading
from engine.data.layouts.split_lists import read_split_lists
from engine.data.layouts.trainer_configs.files import is_config
from engine.data.layouts.trainer_configs.layout import CONFIGURED, recognize_config
from engine.data.layouts.words import IGNORED, IMAGE, is_validation
from engine.data.samples import Problem

__all__ = ["ORDER", "FolderLayout", "FoundImage", "Part", "Reading", "recognize"]

ORDER: tuple[FolderLayout, ...] = (
    CONFIGURED,  # says what is what
    *LISTS,  # a list is more specific than names of folders
    KOHYA,
    PAIRED,
    ENDINGS,
    IMG2DATASET,
    PLAIN,  # fits every folder
)
_DEEPEST = 3


def recognize(folder: Path, asked: Mapping[str, str] | None = None) -> tuple[FolderLayout, list[FoundImage], Reading]:
    """The layout that fits a folder, its images, not read yet, and what else was found out.

    ``folder`` may also be a dataset config of another trainer; the reading's root is the folder of its folders then.
    ``asked``: roles that the user gave to parts, by their names.
    """
    if is_config(folder):
        layout, images, reading = recognize_config(folder, asked or {})
        return layout, _with_captions(images, reading), reading
    problems: list[Problem] = []
    reading = Reading(folder, take_inventory(folder, problems), asked or {}, problems)
    found = _recognize(folder, reading, 0)
    if found is None:
        found = PLAIN, find_few(folder, reading) or PLAIN.find(folder, reading) or []
    layout, images = found
    if layout not in LISTS:
        images = read_split_lists(without_validation(images, reading), reading)
    if not any(item.condition for item in images):
        images = read_halves(images, reading)
        reading.doubts += [doubt for doubt in dict.fromkeys(reading.doubts_without_maps) if doubt not in reading.doubts]
    if not any(item.halves for item in images):
        ask_about_maps(images, reading)
    return layout, _with_captions(images, reading), reading


def _recognize(folder: Path, reading: Reading, depth: int) -> tuple[FolderLayout, list[FoundImage]] | None:
    """The layout of a folder, or of all its folders. None: it holds images in no particular order."""
    for layout in ORDER[:-1]:
        check_search()
        attempt = reading.attempt()
        images = layout.find(folder, attempt)
        reading.accept(attempt, fits=images is not None)
        if images is not None:
            return layout, images
    if depth == _DEEPEST:
        return None
    return _folders_apart(folder, reading, depth)


def _folders_apart(folder: Path, reading: Reading, depth: int) -> tuple[FolderLayout, list[FoundImage]] | None:
    """A layout that each folder of this one has: splits such as train, scenes, or a single wrapper."""
    groups = groups_of(folder, reading)
    loose = [group for group in groups if group.folder == folder]
    groups = [group for group in groups if group not in loose]
    kept = [group for group in groups if is_validation(group.name)]
    rest = [group for group in groups if group not in kept]
    if not rest:
        kept, rest = [], groups
    layout, images, unlike = None, [], []
    trial = reading.attempt()
    for group in rest:
        if reading.role(group.name, IMAGE) == IGNORED:
            trial.leave_out("ignored, as you said", group.images)
            continue
        inner = _recognize(group.folder, trial, depth + (len(groups) > 1))  # a single folder is a wrapper
        if inner is None:
            unlike.append(group)
            continue
        layout = layout or inner[0]
        images += inner[1]
    if layout is None or sum(len(group.images) for group in loose) > len(images):
        return None
    for group in loose:
        trial.leave_out("outside the folders that contain the others", group.images)
        trial.doubts.append(f"Images directly in {folder.name} were left out; the others are in its subfolders.")
    for group in kept:
        role = trial.role(group.name, IGNORED)
        inner = _recognize(group.folder, trial.attempt(), depth + 1) if role == IMAGE else None
        images += inner[1] if inner else []
        if inner is None:
            trial.leave_out(f"in {group.name}, which is kept for validation", group.images)
            trial.doubts.append(f"{group.name} was left out: it is kept for validation.")
        trial.add(Part(group.name, "split", role, len(group.images), tuple(map(str, group.images[:3]))))
    for group in unlike:
        trial.leave_out(f"in {group.name}, which is organized differently from the rest", group.images)
        trial.doubts.append(f"{group.name} was left out: it is organized differently from the rest.")
    reading.accept(trial)
    return layout, images


def _with_captions(images: list[FoundImage], reading: Reading) -> list[FoundImage]:
    """The images with the files that hold their captions. A caption from a list of images stays."""
    finder = CaptionFinder(images, reading)
    found = []
    for item in images:
        path = item.caption_path or (None if item.caption else finder.file_for(item.image, item.condition))
        caption = item.caption or ("" if path else finder.listed_for(item.image) or item.otherwise)
        found.append(replace(item, caption=caption, caption_path=path))
    reading.lists += finder.lists
    reading.captions |= finder.used
    return found
