"""A training run as its folder tells it. Nothing is remembered elsewhere: what the files say is the state."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from engine.config import RunConfig, parse
from engine.disk.durable import atomic_write_text
from engine.disk.watchdog import SlowDisk
from engine.errors import UserError
from engine.jobs.events import Checked, CheckpointSaved, Event, Message, PhaseChanged, PreviewMade, RunOpened, StepDone
from engine.jobs.runner import Emit
from engine.jobs.snapshot import JobSnapshot, add_check, fold, fold_steps
from engine.runs.checkpoints import Checkpoint, list_checkpoints
from engine.runs.metrics import last_turn, read_metrics

LOG_BLOCK = 2**14
"""Bytes at the end of the log that are read at once: some 200 lines."""

Ending = Literal["completed", "paused", "stopped", "failed", "interrupted"]


@dataclass(frozen=True)
class PreviewRecord:
    """Images of one step, as previews/step-N holds them."""

    step: int
    folder: Path
    pictures: tuple[Path, ...]
    captions: tuple[str, ...]
    scores: dict[str, float]
    figures: dict[str, float] = field(default_factory=dict)
    """See ``PreviewMade.figures``."""
    probes: tuple[tuple[Path, str], ...] = ()
    """Images that are scored apart, with their titles."""

    @property
    def event(self) -> PreviewMade:
        return PreviewMade(self.step, self.folder, self.pictures, self.captions, self.scores, self.figures, self.probes)


class Run:
    """A run's folder, read.

    Raises:
        UserError: run.json is missing or cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        try:
            self.about: dict[str, Any] = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"The run {self.folder.name} cannot be opened.",
                f"Its run.json is missing or damaged ({type(error).__name__}).",
                "Its checkpoints can still be exported; start a new run to go on training.",
            ) from error
        if not isinstance(self.about, dict) or not isinstance(self.about.get("config"), dict):
            raise UserError(
                f"The run {self.folder.name} cannot be opened.",
                "Its run.json holds no settings.",
                "Its checkpoints can still be exported; start a new run to go on training.",
            )
        self.config: RunConfig = parse(self.about["config"], f"The settings of {self.folder.name}")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def origins(self) -> dict[str, str]:
        return dict(self.about.get("origins", {}))

    @property
    def condition(self) -> dict[str, Any]:
        """{"type": ..., "parameters": {...}}: what the net is trained to read."""
        return dict(self.about.get("condition", {}))

    @property
    def held_out(self) -> list[str] | None:
        """Keys of the pairs that are never trained on; None where a run of an earlier version does not say."""
        keys = self.about.get("held_out")
        return [str(key) for key in keys] if keys else None

    @property
    def exports(self) -> Path:
        return self.folder / "exports"

    def checkpoints(self) -> list[Checkpoint]:
        """Whole checkpoints, oldest first."""
        return list_checkpoints(self.folder)

    @property
    def last_step(self) -> int:
        checkpoints = self.checkpoints()
        return checkpoints[-1].step if checkpoints else 0

    @property
    def completed(self) -> bool:
        """The last checkpoint is there and whole."""
        return self.last_step >= self.config.train.steps

    @property
    def ending(self) -> Ending:
        """How the run ended, for a run that no live thread works on."""
        if self.completed:
            return "completed"
        known: dict[str, Ending] = {"paused": "paused", "stopped": "stopped", "failed": "failed"}
        return known.get(last_turn(self.folder), "interrupted")

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl; a last line that was cut off is left out."""
        return list(read_metrics(self.folder))

    def previews(self) -> list[PreviewRecord]:
        """Every set of images, oldest first."""
        return [r for r in (read_preview(p) for p in sorted((self.folder / "previews").glob("step-*"))) if r]

    def log_tail(self, lines: int = 200) -> list[str]:
        """The last lines of the log; only the end of the file is read, however long the run was."""
        return last_lines(self.folder / "log.txt", lines)

    def history(self) -> JobSnapshot:
        """The snapshot that the run's files amount to: curves, images, log."""
        snapshot = JobSnapshot(log=tuple(self.log_tail()))
        train = self.config.train
        saved = self.last_step
        opened = RunOpened(self.folder, self.config.name, saved, train.steps, self.config.images_per_step)
        snapshot = fold(snapshot, opened, 0.0)
        checks: tuple[Checked, ...] = ()
        pauses: dict[int, None] = {}  # steps at which it was resumed: each is where a sitting before it had ended

        def steps() -> Iterator[StepDone]:
            nonlocal checks
            for entry in read_metrics(self.folder):
                if entry.get("event") == "resumed":
                    pauses[entry["step"]] = None
                elif entry.get("step", 0) > saved:
                    continue  # lost, and trained again
                elif "loss" in entry:
                    yield StepDone(
                        entry["step"], entry["images_seen"], entry["loss"], entry["learning_rate"], entry["seconds"]
                    )
                elif "control_gain" in entry:
                    checks = add_check(checks, Checked(**entry))

        snapshot = fold_steps(snapshot, steps())
        snapshot = replace(snapshot, checks=checks, pauses=tuple(pauses))
        checkpoints = self.checkpoints()
        if checkpoints:
            kept = tuple(checkpoint.step for checkpoint in checkpoints)
            snapshot = fold(snapshot, CheckpointSaved(saved, checkpoints[-1].folder, kept), 0.0)
        for record in self.previews():
            snapshot = fold(snapshot, record.event, 0.0)
        return snapshot


def read_preview(folder: Path) -> PreviewRecord | None:
    """A preview folder, or None where it is not whole."""
    try:
        about = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        return PreviewRecord(
            step=int(about["step"]),
            folder=folder,
            pictures=tuple(folder / name for name in about["pictures"]),
            captions=tuple(about["captions"]),
            scores={name: float(value) for name, value in about["mean"].items()},
            figures={name: float(value) for name, value in about.get("figures", {}).items()},
            probes=tuple((folder / probe["picture"], str(probe["title"])) for probe in about.get("probes", [])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_run(folder: Path, about: dict[str, Any]) -> None:
    """Write run.json."""
    atomic_write_text(folder / "run.json", json.dumps(about, indent=2, ensure_ascii=False))


def last_lines(path: Path, count: int, block: int = LOG_BLOCK) -> list[str]:
    """The last ``count`` lines of a UTF-8 file, read from its end in blocks; none where there is no such file.

    Lines are taken apart before they are decoded, so that no letter is cut where a block begins. What a crash has left
    of a letter is shown as U+FFFD.
    """
    pieces: list[bytes] = []
    try:
        with path.open("rb") as file:
            begin, ends = file.seek(0, os.SEEK_END), 0
            while begin and ends <= count:  # one more than asked for: the last line has an end, too
                size = min(block, begin)
                begin -= size
                file.seek(begin)
                pieces.append(file.read(size))
                ends += pieces[-1].count(b"\n")
    except FileNotFoundError:
        return []
    end = b"".join(reversed(pieces))
    whole = end.partition(b"\n")[2] if begin else end
    return whole.decode("utf-8", errors="replace").splitlines()[-count:]


class Recorder:
    """Hands events on, and writes them into the run's folder. Any thread may use it.

    A disk that does not take a line is no reason to lose what is in memory: lines wait here until it does. ``slow``
    tells of one that takes them slowly.
    """

    def __init__(self, folder: Path, emit: Emit, slow: SlowDisk | None = None) -> None:
        self._folder, self._emit, self._slow = folder, emit, slow
        self._lock = threading.Lock()
        self._waiting: dict[str, list[str]] = {"metrics.jsonl": [], "log.txt": []}

    def __call__(self, event: Event) -> None:
        self._emit(event)  # first: a disk that hangs keeps nobody from hearing of it
        if isinstance(event, StepDone | Checked):
            self._append("metrics.jsonl", json.dumps(vars(event)))
        elif isinstance(event, PreviewMade):
            line = {"step": event.step, "scores": event.scores, "figures": event.figures}
            self._append("metrics.jsonl", json.dumps(line))
        elif isinstance(event, CheckpointSaved):
            self._append("log.txt", f"Step {event.step:,} saved.")
        elif isinstance(event, Message):
            self._append("log.txt", event.text if event.level == "info" else f"{event.level}: {event.text}")
        elif isinstance(event, PhaseChanged) and event.phase == "saving":
            self._write("metrics.jsonl", flush=True)  # a checkpoint is never ahead of its figures

    def note(self, event: str, step: int, processes: int = 1) -> None:
        """Remember a turn of the run (started, resumed, paused, stopped, failed, completed), and how many shared it."""
        shared = {"processes": processes} if processes > 1 else {}
        self._append("metrics.jsonl", json.dumps({"event": event, "step": step, **shared}), flush=True)

    def _append(self, name: str, line: str, flush: bool = False) -> None:
        with self._lock:
            self._waiting[name].append(line + "\n")
        self._write(name, flush)

    def _write(self, name: str, flush: bool = False) -> None:
        """All lines that wait; where the disk does not take them they wait on, and the file ends with a whole line."""
        with self._lock:
            lines, path = "".join(self._waiting[name]).encode("utf-8"), self._folder / name
            if not lines and not (flush and path.exists()):
                return
            size = -1
            watched = self._slow.watching("Writing the log and the figures", small=True) if self._slow else None
            try:
                with watched or contextlib.nullcontext(), path.open("ab") as file:
                    size = file.tell()
                    file.write(lines)
                    file.flush()
                    if flush:
                        os.fsync(file.fileno())
                self._waiting[name].clear()
            except OSError:  # whoever writes the next checkpoint waits for the disk and says so
                if size >= 0:
                    with contextlib.suppress(OSError):
                        os.truncate(path, size)
