"""What a run has to remember: figures for the verdict, images of skipped steps, also from earlier sessions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from engine.jobs.events import BaseChecked, Checked, Event, PreviewMade, StepSkipped
from engine.jobs.runner import Emit
from engine.jobs.snapshot import add_check
from engine.runs.metrics import read_metrics


class MetricsHistory:
    """Passes events on, and keeps what later steps need of them."""

    def __init__(self, run_folder: Path, emit: Emit) -> None:
        self._emit = emit
        self.checks: tuple[Checked, ...] = ()
        self.base_checks: tuple[BaseChecked, ...] = ()
        self.scores: list[tuple[int, dict[str, float]]] = []
        self.figures: list[tuple[int, dict[str, float]]] = []
        self.skipped: Counter[str] = Counter()
        """In how many skipped steps each image was used, by its key."""
        for entry in read_metrics(run_folder):
            if "control_gain" in entry:
                self.checks = add_check(self.checks, Checked(**entry))
            elif "drift" in entry:
                self.base_checks = add_check(self.base_checks, BaseChecked(**entry))
            elif "scores" in entry:
                self.scores.append((entry["step"], entry["scores"]))
                self.figures.append((entry["step"], entry.get("figures", {})))
            elif "skipped" in entry:
                self.skipped.update(set(entry["images"]))

    def __call__(self, event: Event) -> None:
        if isinstance(event, Checked):
            self.checks = add_check(self.checks, event)
        elif isinstance(event, BaseChecked):
            self.base_checks = add_check(self.base_checks, event)
        elif isinstance(event, PreviewMade):
            self.scores.append((event.step, event.scores))
            self.figures.append((event.step, event.figures))
        elif isinstance(event, StepSkipped):
            self.skipped.update(set(event.images))
        self._emit(event)
