"""What an import has made, and what the user is told about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.data.layouts.model import FoundImage, Part
from engine.machine.units import counted

FEW = 50
_SENTENCE = re.compile(r"(?:[^\W\d_]{2,}[ _\-,.]+){3,}[^\W\d_]{2,}")


@dataclass(frozen=True)
class ImportResult:
    """The result of an import. ``notes`` are sentences for the user."""

    name: str
    folder: str
    found: str
    """The recognized kind of source, as text."""
    layout: str
    pictures: int
    captioned: int
    paired: bool
    problems: int
    new: int
    """Images that were downloaded or unpacked this time. 0 for a folder that is read in place."""
    present: int
    notes: list[str] = field(default_factory=list)
    failures: str = ""
    """Path of the CSV file with failed downloads. Empty if there is none."""
    doubts: list[str] = field(default_factory=list)
    """What was guessed and the user should look at, as sentences."""
    parts: list[Part] = field(default_factory=list)
    """The parts of the folder and what they were taken for."""
    file_usage: list[str] = field(default_factory=list)
    """How every file was used, as sentences."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def advice_on_names(found: Sequence[FoundImage], captioned: int) -> list[str]:
    """A note on file names that look like captions, if there are no others."""
    names = [item.image.stem for item in found[:20]]
    if captioned or not names or sum(bool(_SENTENCE.search(name)) for name in names) < 0.6 * len(names):
        return []
    return [
        "No captions were found, but the file names look like captions: Captions > All at once can turn them into "
        "captions."
    ]


def advice_on_size(count: int) -> list[str]:
    """A note on datasets that are too small for a ControlNet."""
    if count == 1:
        return [
            "One image is enough to try the app, but not for training: a subject needs 3 or more, a ControlNet "
            "thousands of pairs."
        ]
    if count < FEW:
        few = counted(count, "image is", "images are")
        return [
            f"{few} not many for a ControlNet, which needs thousands of pairs to work on new images. For a subject or "
            "a new word 3 to 30 are enough, for a LoRA 15 to 100."
        ]
    return []
