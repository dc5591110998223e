"""How people keep their images: one module a layout, and the one list that says in which order they are tried.

To add one: a module with a ``find`` function and its ``Layout`` (see ``plain.py``), a line in the list, and a test.
"""

from __future__ import annotations

from pathlib import Path

from engine.data.layouts.img2dataset import IMG2DATASET
from engine.data.layouts.kohya import KOHYA
from engine.data.layouts.listed import METADATA_CSV, METADATA_JSONL, PROMPT_JSON, TRAIN_JSONL
from engine.data.layouts.model import Found, Layout
from engine.data.layouts.paired import PAIRED
from engine.data.layouts.plain import PLAIN
from engine.data.samples import Problem

__all__ = ["ORDER", "Found", "Layout", "recognise"]

ORDER: tuple[Layout, ...] = (
    METADATA_JSONL,  # a list says more than the folders' names
    METADATA_CSV,
    TRAIN_JSONL,
    PROMPT_JSON,
    KOHYA,
    PAIRED,
    IMG2DATASET,
    PLAIN,  # takes every folder
)


def recognise(folder: Path, problems: list[Problem]) -> tuple[Layout, list[Found]]:
    """The first layout that the folder fits, and its images, not read yet. Adds what cannot be used to problems."""
    for layout in ORDER:
        met: list[Problem] = []
        found = layout.find(folder, met)
        if found is not None:
            problems += met
            return layout, found
    raise AssertionError("the last layout takes every folder")
