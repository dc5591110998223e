"""What a worker tells: numbers, words and paths, never tensors. Progress may be coalesced, the others never are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Phase = Literal["preparing", "running", "saving", "validating", "waiting"]


@dataclass(frozen=True)
class PhaseChanged:
    phase: Phase


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` things, for example images encoded."""

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
    """One correction of the weights. ``loss`` is the mean over the step's images."""

    step: int
    images_seen: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class PreviewMade:
    """One set of control images. ``scores`` are means over the set, for example {"adherence": 0.81}."""

    step: int
    folder: Path
    pictures: tuple[Path, ...]
    captions: tuple[str, ...]
    scores: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    """What is no score: "obeys_low" and "obeys_high", the interval of "obeys"; "saturation" and "contrast", as ratios
    to the true images'."""
    probes: tuple[tuple[Path, str], ...] = ()
    """Images that are scored apart (odd prompts, the user's own), with their titles."""


@dataclass(frozen=True)
class Checked:
    """Losses of a few fixed pairs at fixed noise, without drawing anything; see engine/training/fixed_losses.py."""

    step: int
    images_seen: int
    held_out_loss: float
    training_loss: float
    control_gain: float
    """Loss with another image's map minus the loss with the right one; 0: the net does not look at it."""
    gain_share: float
    """The gain as a share of each pair's loss, mean over the pairs: 0.3 is 30 % worse with a wrong map."""
    share_error: float
    """Standard error of the share, over the pairs."""
    map_difference: float
    """How much the maps differ from one another, 0..1; 0: they are all alike."""
    seconds: float
    training_share: float | None = None
    """The gain's share on training pairs; None: a run of an earlier version."""
    memory_gib: float = 0.0
    """Most that the card had in use so far, or the process on a machine without one; 0: not known."""
    map_level: float | None = None
    """How light the maps are, 0 (black) to 1; None: a run of an earlier version."""


@dataclass(frozen=True)
class CheckpointSaved:
    step: int
    folder: Path
    kept: tuple[int, ...] = ()
    """Steps of all checkpoints that are on disk now."""


@dataclass(frozen=True)
class Message:
    """A line for the log that people see."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


@dataclass(frozen=True)
class Waiting:
    """The work stands still until the disk can take what is to be written; the phase is "waiting" meanwhile."""

    sentence: str


@dataclass(frozen=True)
class DiskSeen:
    """Bytes on the disk of a run, looked at now and then."""

    free: int
    run: int
    """What the run's folder takes."""
    next_checkpoint: int = 0
    """What the next checkpoint will take, at most; 0: not known yet."""


@dataclass(frozen=True)
class AwakeTold:
    """Whether the computer is kept awake while this job runs, in a sentence."""

    words: str


Event = (
    PhaseChanged
    | Progress
    | RunOpened
    | StepDone
    | PreviewMade
    | Checked
    | CheckpointSaved
    | Message
    | Waiting
    | DiskSeen
    | AwakeTold
)
