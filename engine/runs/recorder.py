"""Writes what happens in a run to its metrics.jsonl and log.txt."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

from engine.disk.watchdog import DiskWatchdog
from engine.jobs.events import (
    BaseChecked,
    Checked,
    CheckpointSaved,
    Event,
    Message,
    PhaseChanged,
    PreviewMade,
    StepDone,
    StepSkipped,
)
from engine.jobs.runner import Emit


class Recorder:
    """Passes events on, and writes them to the run's metrics and log. Any thread may use it.

    Lines that the disk does not take are kept in memory until it does. ``watchdog`` reports a disk that is slow.
    """

    def __init__(self, folder: Path, emit: Emit, watchdog: DiskWatchdog | None = None) -> None:
        self._folder, self._emit, self._watchdog = folder, emit, watchdog
        self._lock = threading.Lock()
        self._pending: dict[str, list[str]] = {"metrics.jsonl": [], "log.txt": []}

    def __call__(self, event: Event) -> None:
        self._emit(event)  # first, so that the page gets the event even if the disk hangs
        if isinstance(event, StepDone | Checked | BaseChecked):
            self._append("metrics.jsonl", json.dumps(vars(event)))
        elif isinstance(event, StepSkipped):
            skipped = {"step": event.step, "skipped": event.not_finite, "images": event.images}
            self._append("metrics.jsonl", json.dumps(skipped))
        elif isinstance(event, PreviewMade):
            line = {"step": event.step, "scores": event.scores, "figures": event.figures}
            self._append("metrics.jsonl", json.dumps(line))
        elif isinstance(event, CheckpointSaved):
            self._append("log.txt", f"Step {event.step:,} saved.")
        elif isinstance(event, Message):
            self._append("log.txt", event.text if event.level == "info" else f"{event.level}: {event.text}")
        elif isinstance(event, PhaseChanged) and event.phase == "saving":
            self._write("metrics.jsonl", flush=True)  # a checkpoint is never ahead of its metrics

    def record_status(self, status: str, step: int, processes: int = 1) -> None:
        """Record that the run has started, resumed, paused, stopped, failed or completed, and on how many processes."""
        shared = {"processes": processes} if processes > 1 else {}
        self._append("metrics.jsonl", json.dumps({"event": status, "step": step, **shared}), flush=True)

    def _append(self, name: str, line: str, flush: bool = False) -> None:
        with self._lock:
            self._pending[name].append(line + "\n")
        self._write(name, flush)

    def _write(self, name: str, flush: bool = False) -> None:
        """Write all pending lines. Those that the disk does not take stay pending; the file ends with a whole line."""
        with self._lock:
            lines, path = "".join(self._pending[name]).encode("utf-8"), self._folder / name
            if not lines and not (flush and path.exists()):
                return
            size = -1
            watch = self._watchdog and self._watchdog.watch("Writing the log and the figures", small=True)
            try:
                with watch or contextlib.nullcontext(), path.open("ab") as file:
                    size = file.tell()
                    file.write(lines)
                    file.flush()
                    if flush:
                        os.fsync(file.fileno())
                self._pending[name].clear()
            except OSError:  # the next checkpoint will wait for the disk and report it
                if size >= 0:
                    with contextlib.suppress(OSError):
                        os.truncate(path, size)
