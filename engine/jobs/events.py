"""What a worker reports: numbers, text and paths, never tensors. Only Progress events may be merged into one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Phase = Literal["preparing", "running", "saving", "validating", "waiting"]


@dataclass(frozen=True)
class PhaseChanged:
    """The job has entered another phase."""

    phase: Phase


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` items, for example images encoded."""

    done: int
    total: int
    label: str


@dataclass(frozen=True)
class RunOpened:
    """A training run has started or resumed."""

    folder: Path
    name: str
    start_step: int
    total_steps: int
    images_per_step: int


@dataclass(frozen=True)
class StepDone:
    """One optimizer step. ``loss`` is the mean over the step's images."""

    step: int
    images_seen: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class SettingsChanged:
    """From this step on the run uses other settings, for example with less memory."""

    step: int
    words: str


@dataclass(frozen=True)
class StepSkipped:
    """A step that changed no weight, since its loss or gradients were NaN or infinite."""

    step: int
    not_finite: Literal["loss", "gradients"]
    images: tuple[str, ...]
    """Keys of the step's images."""


@dataclass(frozen=True)
class PreviewMade:
    """One set of preview images. ``scores`` are means over the set, e.g. {"adherence": 0.81}."""

    step: int
    folder: Path
    pictures: tuple[Path, ...]
    captions: tuple[str, ...]
    scores: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    """Measurements that are not scores: "obeys_low" and "obeys_high", the interval of "obeys"; "saturation" and
    "contrast", relative to the original images."""
    probes: tuple[tuple[Path, str], ...] = ()
    """Images that are not part of the scores (unusual prompts, the user's own images), with their titles."""


@dataclass(frozen=True)
class Checked:
    """One loss check: losses of a few fixed pairs at fixed noise. See engine/training/fixed_losses.py."""

    step: int
    images_seen: int
    held_out_loss: float
    training_loss: float
    control_gain: float
    """Loss with another image's map minus the loss with the right one. 0: the net ignores the map."""
    gain_share: float
    """The gain relative to each pair's loss, mean over the pairs. 0.3: with a wrong map the loss is 30 % higher."""
    share_error: float
    """Standard error of ``gain_share`` over the pairs."""
    map_difference: float
    """How much the maps differ from each other, 0 (all equal) to 1."""
    seconds: float
    training_share: float | None = None
    """``gain_share`` on training pairs. None in runs of an earlier version."""
    memory_gib: float = 0.0
    """Peak memory of the graphics card so far, or of the process if there is none. 0: not known."""
    map_level: float | None = None
    """Mean brightness of the maps, 0 (black) to 1. None in runs of an earlier version."""


@dataclass(frozen=True)
class BaseChecked:
    """One loss check of a run that teaches the base, at fixed noise. See engine/training/base_losses.py."""

    step: int
    images_seen: int
    held_out_loss: float
    training_loss: float
    gain: float
    """0.1: the loss on held-out images is 10 % below that of the untrained base (geometric mean)."""
    gain_error: float
    """Standard error of ``gain`` over the images."""
    training_gain: float
    """``gain`` on training images. Far above the held-out one, it learns these images by heart."""
    drift: float
    """0.1: predictions for other captions have changed by 10 % of the untrained base's loss there (mean squares)."""
    drift_error: float
    seconds: float
    memory_gib: float = 0.0
    """As in ``Checked``."""


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is complete and on the disk."""

    step: int
    folder: Path
    kept: tuple[int, ...] = ()
    """Steps of all checkpoints on the disk now, including this one."""


@dataclass(frozen=True)
class Message:
    """A line of the log that the page shows."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


@dataclass(frozen=True)
class Waiting:
    """The job is blocked until the disk accepts a write. Meanwhile the phase is "waiting"."""

    sentence: str


@dataclass(frozen=True)
class DiskSpace:
    """Free and used bytes on the disk of a run, checked from time to time."""

    free: int
    run: int
    """Size of the run's folder."""
    next_checkpoint: int = 0
    """Upper bound for the next checkpoint's size. 0: not known yet."""


@dataclass(frozen=True)
class KeepAwakeStatus:
    """Whether the computer is kept awake while this job runs."""

    sentence: str


Event = (
    PhaseChanged
    | Progress
    | RunOpened
    | StepDone
    | SettingsChanged
    | StepSkipped
    | PreviewMade
    | Checked
    | BaseChecked
    | CheckpointSaved
    | Message
    | Waiting
    | DiskSpace
    | KeepAwakeStatus
)
