"""What a worker tells: numbers, words and paths, never tensors. Progress may be coalesced, the others never are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Phase = Literal["preparing", "running", "saving", "validating"]


@dataclass(frozen=True)
class PhaseChanged:
    phase: Phase


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` things, for example pictures encoded."""

    done: int
    total: int
    label: str


@dataclass(frozen=True)
class RunOpened:
    """The folder of a training run and where it starts."""

    folder: Path
    name: str
    start_step: int
    total_steps: int
    images_per_step: int


@dataclass(frozen=True)
class StepDone:
    """One correction of the weights. ``loss`` is the mean over the step's pictures."""

    step: int
    images_seen: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class PreviewMade:
    """One set of control pictures. ``scores`` are means over the set, for example {"adherence": 0.81}."""

    step: int
    folder: Path
    pictures: tuple[Path, ...]
    captions: tuple[str, ...]
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointSaved:
    step: int
    folder: Path


@dataclass(frozen=True)
class Message:
    """A line for the log that people see."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


Event = PhaseChanged | Progress | RunOpened | StepDone | PreviewMade | CheckpointSaved | Message
