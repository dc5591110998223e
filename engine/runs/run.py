"""A training run on disk. Its state is what its files say; nothing is stored elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from engine.config import RunConfig, parse
from engine.config.migrate import of_a_run
from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.jobs.events import (
    BaseChecked,
    Checked,
    CheckpointSaved,
    PreviewMade,
    RunOpened,
    StepDone,
)
from engine.jobs.snapshot import JobSnapshot, add_check, fold, fold_steps
from engine.machine.units import format_memory
from engine.runs.changes import Change, changes_of, settings_now
from engine.runs.checkpoints import Checkpoint, list_checkpoints
from engine.runs.metrics import last_status, read_metrics

LOG_BLOCK = 2**14
"""Bytes of the log that are read at once, from its end: some 200 lines."""

QUEUE_ENTRIES = "queue_entries"
"""In run.json: ids of the entries of the queue that have begun the run or resumed it."""

Ending = Literal["completed", "paused", "stopped", "failed", "interrupted"]


@dataclass(frozen=True)
class PreviewRecord:
    """The preview images of one step, from the folder previews/step-N."""

    step: int
    folder: Path
    pictures: tuple[Path, ...]
    captions: tuple[str, ...]
    scores: dict[str, float]
    figures: dict[str, float] = field(default_factory=dict)
    """See ``PreviewMade.figures``."""
    probes: tuple[tuple[Path, str], ...] = ()
    """Images that do not count in the scores, with their titles."""

    @property
    def event(self) -> PreviewMade:
        return PreviewMade(self.step, self.folder, self.pictures, self.captions, self.scores, self.figures, self.probes)


class Run:
    """A run, read from its folder.

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
                "Its checkpoints can still be exported; start a new run to continue training.",
            ) from error
        if not isinstance(self.about, dict) or not isinstance(self.about.get("config"), dict):
            raise UserError(
                f"The run {self.folder.name} cannot be opened.",
                "Its run.json holds no settings.",
                "Its checkpoints can still be exported; start a new run to continue training.",
            )
        named = f"The settings of {self.folder.name}"
        self.begun_with: RunConfig = parse(of_a_run(self.about["config"]), named)
        """The settings of its first step."""
        self.config: RunConfig = settings_now(self.begun_with, self.about, named)
        """The settings that it has reached: with what the user has changed since, and with its memory fallbacks."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def origins(self) -> dict[str, str]:
        return dict(self.about.get("origins", {}))

    @property
    def condition(self) -> dict[str, Any]:
        """The condition that the net is trained on: "type", "parameters", "side", "varied". Empty: none.

        "side": shorter side of the images that the maps were made of, in pixels; missing in runs of earlier versions.
        """
        return dict(self.about.get("condition", {}))

    @property
    def held_out(self) -> list[str] | None:
        """Keys of the pairs that are never trained on. None in runs of an earlier version."""
        keys = self.about.get("held_out")
        return [str(key) for key in keys] if keys else None

    @property
    def changes(self) -> list[Change]:
        """Changes of settings since it began, in their order; of memory fallbacks, too."""
        return changes_of(self.about)

    @property
    def machine(self) -> str:
        """Name of the card or processor that the run was last trained on. Empty in runs of earlier versions."""
        machines = self.about.get("machines") or [{}]
        return str(machines[-1].get("name", ""))

    @property
    def trained_on(self) -> str:
        """``machine`` for people: "NVIDIA RTX 3090, 24 GB", or "a processor". Empty in runs of earlier versions."""
        machines = self.about.get("machines") or [{}]
        memory = machines[-1].get("vram_gib")
        if memory is None:
            return "a processor" if self.machine else ""
        return f"{self.machine}, {format_memory(memory)}"

    def note_machine(self, **facts: Any) -> None:
        """Add what the run is trained on from its last step on to run.json, unless it is what was there before.

        Args:
            facts: plain values; ``name`` is the card's name, or the processor's.
        """
        machines = list(self.about.get("machines", []))
        if not machines or {name: value for name, value in machines[-1].items() if name != "from_step"} != facts:
            self.about["machines"] = [*machines, {"from_step": self.last_step, **facts}]
            write_run(self.folder, self.about)

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
        """Whether the last checkpoint exists and is whole."""
        return self.last_step >= self.config.train.steps

    @property
    def ending(self) -> Ending:
        """How the run ended. Only for a run that no live thread works on."""
        if self.completed:
            return "completed"
        known: dict[str, Ending] = {"paused": "paused", "stopped": "stopped", "failed": "failed"}
        return known.get(last_status(self.folder), "interrupted")

    def metrics(self) -> list[dict[str, Any]]:
        """Parsed lines of metrics.jsonl. A last line that was cut off is left out."""
        return list(read_metrics(self.folder))

    def previews(self) -> list[PreviewRecord]:
        """Every set of preview images, oldest first."""
        return [r for r in (read_preview(p) for p in sorted((self.folder / "previews").glob("step-*"))) if r]

    def log_tail(self, lines: int = 200) -> list[str]:
        """The last lines of the log. Only the end of the file is read, however long the run was."""
        return last_lines(self.folder / "log.txt", lines)

    def history(self) -> JobSnapshot:
        """A snapshot made from the run's files: curves, images, log."""
        snapshot = JobSnapshot(log=tuple(self.log_tail()))
        train = self.config.train
        saved = self.last_step
        opened = RunOpened(self.folder, self.config.name, saved, train.steps, self.config.images_per_step)
        snapshot = fold(snapshot, opened, 0.0)
        checks: tuple[Checked, ...] = ()
        base_checks: tuple[BaseChecked, ...] = ()
        pauses: dict[int, None] = {}  # keys: the steps at which it was resumed, and so had paused

        def steps() -> Iterator[StepDone]:
            nonlocal checks, base_checks
            for entry in read_metrics(self.folder):
                if entry.get("event") == "resumed":
                    pauses[entry["step"]] = None
                elif entry.get("step", 0) > saved:
                    continue  # lost, and repeated by the resumed run
                elif "loss" in entry:
                    yield StepDone(
                        entry["step"], entry["images_seen"], entry["loss"], entry["learning_rate"], entry["seconds"]
                    )
                elif "control_gain" in entry:
                    checks = add_check(checks, Checked(**entry))
                elif "drift" in entry:
                    base_checks = add_check(base_checks, BaseChecked(**entry))

        snapshot = fold_steps(snapshot, steps())
        changes = tuple((change.step, change.words) for change in self.changes)
        snapshot = replace(snapshot, checks=checks, base_checks=base_checks, pauses=tuple(pauses), changes=changes)
        checkpoints = self.checkpoints()
        if checkpoints:
            kept = tuple(checkpoint.step for checkpoint in checkpoints)
            snapshot = fold(snapshot, CheckpointSaved(saved, checkpoints[-1].folder, kept), 0.0)
        for record in self.previews():
            snapshot = fold(snapshot, record.event, 0.0)
        return snapshot


def read_preview(folder: Path) -> PreviewRecord | None:
    """Read a preview folder. None if it is not whole."""
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
    """The last ``count`` lines of a UTF-8 file, read from its end in blocks. Empty if there is no such file.

    Lines are split before they are decoded, so that no character is cut where a block begins. Half a character that a
    crash has left is shown as U+FFFD.
    """
    pieces: list[bytes] = []
    try:
        with path.open("rb") as file:
            begin, ends = file.seek(0, os.SEEK_END), 0
            while begin and ends <= count:  # one more than asked for: the last line ends with one, too
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
