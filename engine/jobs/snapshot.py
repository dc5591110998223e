"""One immutable snapshot of the job, folded from its events. Every page reads this and nothing else."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeVar

from engine.errors import Offer
from engine.jobs.events import (
    BaseChecked,
    Checked,
    CheckpointSaved,
    DiskSpace,
    Event,
    KeepAwakeStatus,
    Message,
    PhaseChanged,
    PreviewMade,
    Progress,
    RunOpened,
    SettingsChanged,
    StepDone,
    StepSkipped,
    Waiting,
)


class JobKind(StrEnum):
    """The kind of a job. The pages show a job's progress and result on the tab that belongs to its kind."""

    TRAIN = "train"
    TRIAL = "trial"
    """Three steps and one set of preview images, to measure time and memory."""
    BASES = "bases"
    """A base model is downloaded, or those on this computer are looked for."""
    DATASET = "dataset"
    CAPTIONS = "captions"
    CHECK = "doctor"
    """A check of a dataset."""
    CONDITIONS = "conditions"
    TRY = "try"
    GRID = "grid"
    TIMELAPSE = "timelapse"
    EVALUATE = "evaluate"
    EXPORT = "export"
    SERVE = "serve"
    """Images are drawn for another program, over the HTTP API."""


Outcome = Literal["completed", "paused", "stopped", "cancelled", "failed"]
CURVE_POINTS = 500
RECENT_STEPS = 50
CHECKS = 400
LOG_LINES = 200
LEAST_GAP, GAP_TIMES = 60.0, 50.0
"""A gap between two progress events that is longer than both, in seconds and in usual gaps, does not count as work."""


@dataclass(frozen=True)
class Failure:
    """The contents of the failure panel."""

    what: str
    why: str
    try_this: str
    details: str = ""
    offers: tuple[Offer, ...] = ()
    """Ways to resume a run that has failed; each is a button."""


@dataclass(frozen=True)
class Curve:
    """At most CURVE_POINTS (x, y) points. When full, every second point is dropped and the stride doubles."""

    points: tuple[tuple[int, float], ...] = ()
    stride: int = 1
    waiting: int = 0

    def add(self, x: int, y: float) -> Curve:
        """Return the curve with a point added, or only counted if the stride skips it."""
        if self.waiting + 1 < self.stride:
            return Curve(self.points, self.stride, self.waiting + 1)
        points, stride = (*self.points, (x, y)), self.stride
        if len(points) > CURVE_POINTS:
            points, stride = points[1::2], stride * 2
        return Curve(points, stride, 0)


@dataclass(frozen=True)
class JobSnapshot:
    """State of the current job. ``version`` grows with each change, so that a page can skip what it has shown."""

    version: int = 0
    kind: str = ""
    title: str = ""
    alive: bool = False
    asked: Literal["", "pause", "stop", "cancel"] = ""
    outcome: Outcome | None = None
    failure: Failure | None = None
    phase: str = ""
    progress: Progress | None = None
    progress_started: float = 0.0
    progress_at: float = 0.0
    """Time of the last progress event."""
    updated: float = 0.0
    run_folder: Path | None = None
    run_name: str = ""
    start_step: int = 0
    total_steps: int = 0
    images_per_step: int = 0
    last_step: StepDone | None = None
    recent_seconds: tuple[float, ...] = ()
    loss: Curve = field(default_factory=Curve)
    rate: Curve = field(default_factory=Curve)
    """Learning rate."""
    pace: Curve = field(default_factory=Curve)
    """Images per second."""
    scores: tuple[tuple[int, dict[str, float]], ...] = ()
    figures: tuple[tuple[int, dict[str, float]], ...] = ()
    """Measurements of preview images that are not scores; see PreviewMade."""
    pauses: tuple[int, ...] = ()
    """Steps at which the run was paused and later resumed."""
    changes: tuple[tuple[int, str], ...] = ()
    """Steps at which settings changed, with the change in words."""
    preview: PreviewMade | None = None
    checkpoint: CheckpointSaved | None = None
    checks: tuple[Checked, ...] = ()
    """At most CHECKS loss checks, always including the first and the newest."""
    base_checks: tuple[BaseChecked, ...] = ()
    """The same of a run that teaches the base, which has no ``checks``."""
    kept: tuple[int, ...] = ()
    """Steps of the checkpoints on disk."""
    log: tuple[str, ...] = ()
    waiting: str = ""
    """What the run waits for, in the phase "waiting"."""
    warned: str = ""
    """The newest warning of the current phase or step."""
    disk: DiskSpace | None = None
    keep_awake: str = ""
    """A sentence that says whether the computer is kept awake."""

    @property
    def is_training(self) -> bool:
        """Whether a run is training now."""
        return self.alive and self.kind == JobKind.TRAIN

    @property
    def step(self) -> int:
        return self.last_step.step if self.last_step else self.start_step

    @property
    def measured(self) -> tuple[Checked | BaseChecked, ...]:
        """The loss checks, of whichever kind."""
        return (*self.checks, *self.base_checks)

    @property
    def seconds_per_step(self) -> float:
        """Median of the last steps; 0: none was taken yet."""
        # median_low: with two steps, one during which the machine was held up does not count.
        return statistics.median_low(self.recent_seconds) if self.recent_seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end: from the median of the last steps while training, else from the pace so far.

        None while it is not known, and while the run waits for the disk.
        """
        if self.phase == "waiting":
            return None
        if self.phase in ("running", "saving", "validating") and self.recent_seconds:
            return self.seconds_per_step * (self.total_steps - self.step)
        if self.progress and self.progress.done > 0 and self.progress_at > self.progress_started:
            pace = (self.progress_at - self.progress_started) / self.progress.done
            return pace * (self.progress.total - self.progress.done)
        return None


Check = TypeVar("Check", bound=Checked | BaseChecked)


def add_check(checks: tuple[Check, ...], check: Check) -> tuple[Check, ...]:
    """Add a check, and drop later ones that a resumed run repeats. When full, every second one but the first goes."""
    earlier = checks
    if checks and checks[-1].step >= check.step:
        earlier = tuple(c for c in checks if c.step < check.step)
    if len(earlier) >= CHECKS:
        earlier = (earlier[0], *earlier[2::2])
    return (*earlier, check)


def _held_up(snapshot: JobSnapshot, now: float) -> float:
    """Seconds since the last progress event in which the machine or the process stood still (sleep, a debugger)."""
    if snapshot.progress is None or snapshot.progress.done == 0:
        return 0.0
    usual = (snapshot.progress_at - snapshot.progress_started) / snapshot.progress.done
    gap = now - snapshot.progress_at
    return gap - usual if gap > max(LEAST_GAP, GAP_TIMES * usual) else 0.0


def fold_steps(snapshot: JobSnapshot, steps: Iterable[StepDone]) -> JobSnapshot:
    """Fold many steps at once: a run of a week has half a million, and a snapshot for each would take a minute."""
    last, recent = snapshot.last_step, deque(snapshot.recent_seconds, RECENT_STEPS)
    loss, rate, pace = snapshot.loss, snapshot.rate, snapshot.pace
    for last in steps:
        recent.append(last.seconds)
        images = snapshot.images_per_step or last.images_seen / max(1, last.step)
        loss = loss.add(last.step, last.loss)
        rate = rate.add(last.step, last.learning_rate)
        pace = pace.add(last.step, images / max(last.seconds, 1e-9))
    return replace(snapshot, last_step=last, recent_seconds=tuple(recent), loss=loss, rate=rate, pace=pace, warned="")


def fold(snapshot: JobSnapshot, event: Event, now: float) -> JobSnapshot:
    """Return the snapshot after an event. ``now``: seconds of a monotonic clock."""
    base = replace(snapshot, version=snapshot.version + 1, updated=now)
    if isinstance(event, KeepAwakeStatus):
        return replace(base, keep_awake=event.sentence)
    if isinstance(event, PhaseChanged):
        return replace(base, phase=event.phase, progress=None, waiting="", warned="")
    if isinstance(event, Waiting):
        return replace(base, phase="waiting", progress=None, waiting=event.sentence)
    if isinstance(event, DiskSpace):
        return replace(base, disk=event)
    if isinstance(event, Progress):
        same = snapshot.progress is not None and snapshot.progress.label == event.label
        started = snapshot.progress_started + _held_up(snapshot, now) if same else now
        return replace(base, progress=event, progress_started=started, progress_at=now)
    if isinstance(event, RunOpened):
        return replace(
            base,
            run_folder=event.folder,
            run_name=event.name,
            start_step=event.start_step,
            total_steps=event.total_steps,
            images_per_step=event.images_per_step,
        )
    if isinstance(event, StepDone):
        return fold_steps(base, (event,))
    if isinstance(event, SettingsChanged):
        return replace(base, changes=(*snapshot.changes, (event.step, event.words)))
    if isinstance(event, StepSkipped):
        return base  # a message in the log says so
    if isinstance(event, PreviewMade):
        return replace(
            base,
            preview=event,
            scores=(*snapshot.scores, (event.step, event.scores)),
            figures=(*snapshot.figures, (event.step, event.figures)),
        )
    if isinstance(event, Checked):
        return replace(base, checks=add_check(snapshot.checks, event))
    if isinstance(event, BaseChecked):
        return replace(base, base_checks=add_check(snapshot.base_checks, event))
    if isinstance(event, CheckpointSaved):
        return replace(base, checkpoint=event, kept=event.kept)
    if isinstance(event, Message):
        prefix = "" if event.level == "info" else f"{event.level}: "
        warned = event.text if event.level == "warning" else snapshot.warned
        return replace(base, warned=warned, log=(*snapshot.log, prefix + event.text)[-LOG_LINES:])
    raise TypeError(f"unknown event {type(event).__name__}")
