"""Folder layouts: one module for each, and the list of all in the order in which they are tried.

To add one: a module with a ``find`` function and its ``FolderLayout`` (see ``plain.py``), a line in the list, a test.
"""

from __future__ import annotations

from pathlib import Path

from engine.data.layouts.img2dataset import IMG2DATASET
from engine.data.layouts.kohya import KOHYA
from engine.data.layouts.listed import METADATA_CSV, METADATA_JSONL, PROMPT_JSON, TRAIN_JSONL
from engine.data.layouts.model import FolderLayout, FoundImage
from engine.data.layouts.paired import PAIRED
from engine.data.layouts.plain import PLAIN
from engine.data.samples import Problem

__all__ = ["ORDER", "FoundImage", "FolderLayout", "recognise"]

ORDER: tuple[FolderLayout, ...] = (
    METADATA_JSONL,  # a list is more specific than names of folders
    METADATA_CSV,
    TRAIN_JSONL,
    PROMPT_JSON,
    KOHYA,
    PAIRED,
    IMG2DATASET,
    PLAIN,  # fits every folder
)


def recognise(folder: Path, problems: list[Problem]) -> tuple[FolderLayout, list[FoundImage]]:
    """The first layout that fits the folder, and its images, not read yet. Adds unusable files to ``problems``."""
    for layout in ORDER:
        met: list[Problem] = []
        found = layout.find(folder, met)
        if found is not None:
            problems += met
            return layout, found
    raise AssertionError("the last layout fits every folder")
