"""The state that a page is drawn from: plain, immutable values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.jobs.snapshot import Failure, JobSnapshot
from engine.queue.entries import Entry
from engine.queue.entries import Result as QueueResult
from ui.page.auto_check import CheckState
from ui.page.guide.state import GuideState
from ui.page.shown_run import Unfinished
from ui.page.states import TrainView


@dataclass(frozen=True)
class Draft:
    """The settings of the next run as the form shows them. All pages share them, and a reload restores them."""

    preset: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    """The values that differ from the preset, nested."""
    number: int = 0
    """Grows when something other than the form has changed the draft."""


@dataclass(frozen=True)
class Result:
    """The output of a tab's job: files and text."""

    number: int = 0
    """Tells a new result from the last one of its kind."""
    images: tuple[tuple[str, str], ...] = ()
    """Paths with their captions."""
    facts: tuple[tuple[str, str], ...] = ()
    note: str = ""
    where: str = ""
    """The file or folder that was made."""


@dataclass(frozen=True)
class QueueView:
    """The contents of the queue's folder."""

    entries: tuple[Entry, ...] = ()
    """The running one, then the waiting ones in their order."""
    results: tuple[QueueResult, ...] = ()
    """Newest first."""
    held: bool = False
    """The waiting ones start only when the user asks for it."""

    @property
    def waiting(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.state == "waiting")


@dataclass(frozen=True)
class View:
    """Everything that a page needs for one refresh. It is the same for all pages."""

    snapshot: JobSnapshot
    datasets: tuple[str, ...]
    runs: tuple[str, ...]
    shown_run: str
    """Folder name of the run on the Train tab. Empty: the form for a new run is shown."""
    history: JobSnapshot
    """Curves, images and log of the shown run, from the live job or from its files."""
    train: TrainView
    problem: Failure | None
    draft: Draft
    focus_dataset: str
    results: dict[str, Result]
    guide: GuideState = GuideState()
    """The guide at the top of the page."""
    unfinished: tuple[Unfinished, ...] = ()
    """Runs of earlier sessions that can be resumed."""
    start_pressed: bool = False
    """Start was pressed for this draft, and a red caution stands against it."""
    auto_check: CheckState = CheckState()
    """The dataset check that runs by itself."""
    queue: QueueView = QueueView()
    closing: bool = False
    """The app is about to end."""
