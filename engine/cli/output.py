"""Output of the command line: a status line that is rewritten on a terminal, or an occasional line in a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from engine.cli.advice import for_command_line
from engine.jobs.events import CheckpointSaved, Event, Message, PreviewMade, Progress
from engine.jobs.snapshot import JobSnapshot, fold
from engine.machine.clock import active_time
from engine.machine.units import counted, format_duration

if TYPE_CHECKING:
    from engine.data.samples import Problem

NAMED = 5
"""Files that are named of those with the same problem."""
SECONDS_BETWEEN_LINES = 10.0  # in a log; on a terminal the line is rewritten five times a second


def grouped(problems: Iterable[Problem]) -> list[str]:
    """Return a sentence for each kind of problem, with the names of the first files that have it."""
    files: dict[str, list[str]] = {}
    for problem in problems:
        files.setdefault(for_command_line(f"{problem.what} {problem.why}".strip()), []).append(problem.path.name)
    return [f"{words} ({_names(names)})" for words, names in files.items()]


def _names(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    count = f"{counted(len(names), 'image')}: " if len(names) > 1 else ""
    return f"{count}{', '.join(names[:NAMED])}{rest}"


class EventPrinter:
    """Prints a job's events, with progress and time left."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._snapshot = JobSnapshot()
        self._last = 0.0
        self._open_line = False

    def say(self, text: str) -> None:
        """Print a line."""
        self._end_line()
        self._print(for_command_line(text))

    def progress(self, done: int, total: int, label: str) -> None:
        """Update the status line."""
        self.event(Progress(done, total, label))

    def event(self, event: Event) -> None:
        """Print an event, or update the status line."""
        self._snapshot = fold(self._snapshot, event, active_time())
        if isinstance(event, Message):
            self.say(f"     {event.text}")
        elif isinstance(event, CheckpointSaved):
            self.say(f"     Step {event.step:,} saved.")
        elif isinstance(event, PreviewMade):
            scores = ", ".join(f"{name} {value:.2f}" for name, value in event.scores.items())
            self.say(f"     Step {event.step:,}: {scores or 'preview images drawn'}")
        else:
            self._status()

    def _status(self) -> None:
        now = active_time()
        if now - self._last < (0.2 if self._terminal else SECONDS_BETWEEN_LINES):
            return
        self._last = now
        s = self._snapshot
        if s.phase == "waiting":
            text = f"     Step {s.step:,} of {s.total_steps:,}, waiting"
        elif s.progress is not None:
            text = f"     {s.progress.label}: {s.progress.done:,} of {s.progress.total:,}"
        elif s.last_step is not None:
            text = f"     Step {s.step:,} of {s.total_steps:,}, loss {s.last_step.loss:.4f}"
        else:
            return
        if s.seconds_left is not None:
            text += f", about {format_duration(s.seconds_left)} left"
        if self._terminal:
            self._print(f"\r{text:<78}", end="")
            self._open_line = True
        else:
            self._print(text)

    def _end_line(self) -> None:
        if self._open_line:
            self._print("")
            self._open_line = False

    def _print(self, text: str, end: str = "\n") -> None:
        """Print. A closed terminal must not end the work."""
        try:
            print(text, end=end, flush=True, file=self._stream)
        except OSError:
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
