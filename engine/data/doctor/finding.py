"""What a finding is: declared once, in words for a hobbyist, beside the code that finds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engine.data.doctor.facts import ImageFacts, MapFacts
from engine.data.samples import Sample

Severity = Literal["serious", "warning", "note"]
Part = Literal["picture", "map", "caption"]


@dataclass(frozen=True)
class Finding:
    """One kind of fault."""

    name: str
    title: str
    why: str
    """Why it matters for the training, a sentence or two."""
    what_to_do: str
    severity: Severity
    """serious: spoils the training or what it is measured by; warning: costs quality; note: worth knowing."""
    correct: Part | None = None
    """What a corrected copy can be written of; None: it can only be left out."""
    unusable: bool = False
    """The files are left out already because they cannot be used: there is nothing to exclude."""


@dataclass(frozen=True)
class Hit:
    """One image with one fault. ``key``: of the sample, or the path of a file that is in no sample."""

    finding: str
    key: str
    detail: str = ""
    """Words and figures about this one: "13 px too far right"."""
    other: str = ""
    """Key of the sample it was compared with."""


@dataclass(frozen=True)
class Row:
    """A sample with what was measured of it."""

    sample: Sample
    image: ImageFacts | None
    map: MapFacts | None


@dataclass(frozen=True)
class Rules:
    """What the findings depend on beside the images."""

    resolution: int = 512
    """Side in pixels at which the set will be trained."""
    held_out: frozenset[str] = frozenset()
    """Keys that are kept for testing."""


@dataclass
class Summary:
    """Counts over the set that single images are judged against."""

    pictures: int = 0
    grey: int = 0
    maps: int = 0
    """Maps without a reference that are not blank."""
    polarity: dict[str, int] = field(default_factory=dict)
    """Of these: how many are of which polarity."""
