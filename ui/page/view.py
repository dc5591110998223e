"""What a page is made from: plain, immutable values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.jobs.snapshot import Failure, JobSnapshot
from ui.page.shown_run import Unfinished
from ui.page.states import TrainView


@dataclass(frozen=True)
class Draft:
    """The next run, as it stands in the form: shared by all pages, so that a reload finds it again."""

    preset: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    """What differs from the preset, nested."""
    number: int = 0
    """Grows when something other than the form itself changed the draft."""


@dataclass(frozen=True)
class Result:
    """What a job of a tab made: files and words. ``number`` tells a new one from the last."""

    number: int = 0
    pictures: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    note: str = ""
    where: str = ""
    """The file or folder that was made."""


@dataclass(frozen=True)
class View:
    """All that a page needs for one refresh, made once for all pages."""

    snapshot: JobSnapshot
    datasets: tuple[str, ...]
    runs: tuple[str, ...]
    shown_run: str
    """Folder name of the run on the Train tab; empty: a new one is being set up."""
    history: JobSnapshot
    """Curves, images and log of the shown run, live or from its files."""
    train: TrainView
    problem: Failure | None
    draft: Draft
    focus_dataset: str
    results: dict[str, Result]
    card_hidden: bool
    unfinished: tuple[Unfinished, ...] = ()
    """Runs of earlier sittings, to be offered."""
    closing: bool = False
    """The app is about to end."""
