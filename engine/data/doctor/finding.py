"""The declaration of a finding, written for hobbyists, next to the code that finds it; and what judges need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engine.data.doctor.facts import ImageFacts, MapFacts
from engine.data.samples import Sample

Severity = Literal["serious", "warning", "note"]
Part = Literal["picture", "map", "caption"]


@dataclass(frozen=True)
class Finding:
    """One kind of problem."""

    name: str
    title: str
    why: str
    """Why it matters for training, in a sentence or two."""
    what_to_do: str
    severity: Severity
    """serious: spoils the training or its scores; warning: lowers the quality; note: good to know."""
    correct: Part | None = None
    """The part of which a corrected copy can be written. None: the image can only be excluded."""
    unusable: bool = False
    """The files are unusable and thus not in the dataset: there is nothing to exclude."""
    whole: bool = False
    """It is about the dataset as a whole. The hits are examples: there is nothing to exclude."""

    @property
    def excludable(self) -> bool:
        """Whether leaving out the images helps."""
        return not (self.unusable or self.whole)


@dataclass(frozen=True)
class Hit:
    """One image with a problem. ``key``: of the sample, or the path of a file that is not in any sample."""

    finding: str
    key: str
    detail: str = ""
    """Details about this one: "13 px too far right"."""
    other: str = ""
    """Key of the sample that it was compared with."""


@dataclass(frozen=True)
class SampleFacts:
    """A sample with its measurements."""

    sample: Sample
    image: ImageFacts | None
    map: MapFacts | None


@dataclass(frozen=True)
class Rules:
    """Settings that the findings depend on besides the images."""

    resolution: int = 512
    """Resolution of the run, in pixels."""
    held_out: frozenset[str] = frozenset()
    """Keys of the held-out samples."""


@dataclass
class Summary:
    """Counts over the dataset, against which single images are judged."""

    pictures: int = 0
    grey: int = 0
    maps: int = 0
    """Maps without a reference that are not blank."""
    polarity: dict[str, int] = field(default_factory=dict)
    """Number of these maps with each polarity."""
    shifts: list[tuple[str, float, float]] = field(default_factory=list)
    """Key, and shift to the right and down in pixels at 512 px, of maps that fit their image."""
