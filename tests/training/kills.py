"""Kills a training process by SIGKILL again and again, and looks at what it left. POSIX only.

    python -m tests.training.kills --kills 50 [--steps 260] [--seed 0]

Every process that is killed trains for real (tests/forked.py starts it). Half of the kills come while a checkpoint is
being written: the temporary folder is watched, and the kill follows its appearance by a random part of the time that a
save takes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.forked import Forks

TICK = 0.0005
PATIENCE = 300.0
"""Seconds after which a process that does nothing is given up."""


@dataclass
class Report:
    """What happened."""

    kills: int = 0
    while_saving: int = 0
    """Kills that left a half-written checkpoint behind."""
    finished: int = 0
    """Half-written ones that were whole but for their name."""
    before_first_step: int = 0
    steps_lost: list[int] = field(default_factory=list)
    completed: bool = False

    def __str__(self) -> str:
        lost = f"{statistics.median(self.steps_lost)} at the median, {max(self.steps_lost)} at most"
        return (
            f"{self.kills} kills: {self.while_saving} left a half-written checkpoint ({self.finished} of these were "
            f"whole but for their name), {self.before_first_step} came before the first step of their process. Steps "
            f"done again after a kill: {lost}."
        )


def train(workspace: str, folder: str) -> int:
    """Train a run in this process. Returns 0 when it is complete."""
    from engine.jobs.control import Control
    from engine.runs.run import Run
    from engine.training.job import training_job
    from engine.workspace.paths import Workspace

    return int(training_job(Workspace(workspace), Run(folder))(Control().token, lambda event: None) != "completed")


class Trainings:
    """One training process after the other, all of one workspace."""

    def __init__(self, forks: Forks, workspace: Path) -> None:
        self._forks, self._workspace, self._process = forks, workspace, 0

    def start(self, folder: Path) -> int:
        """Start a process that trains this run, and return its id."""
        self._process = self._forks.start("tests.training.kills", "--train", str(self._workspace), str(folder))
        return self._process

    def outcome(self) -> int:
        """Wait for it: 0 (complete), 1 (an error) or -9 (killed)."""
        return self._forks.wait(self._process, PATIENCE)


def kill_often(trainings: Trainings, folder: Path, kills: int, seed: int = 0) -> Report:
    """Train the run in ``folder`` to its end, killing its process ``kills`` times on the way.

    Raises:
        AssertionError: a claim of docs/reliability.md did not hold.
    """
    from engine.runs.run import Run

    chance, report = random.Random(seed), Report()
    span, known = 0.02, 0  # seconds from the first sign of a save to its end, as far as known; newest step saved
    while report.kills < kills:
        process, saving, before = trainings.start(folder), report.kills % 2 == 1, _lines(folder)
        alive = _wait_for_saving(folder, process) if saving else _wait_for_steps(folder, process, chance, before)
        if saving:
            time.sleep(chance.uniform(0, span))
        if alive:
            os.kill(process, signal.SIGKILL)
        if trainings.outcome() != -9:
            break  # it had come to its end just before
        report.kills += 1
        report.before_first_step += _lines(folder) == before
        half = _half_written(folder)
        report.while_saving += bool(half)
        if saving:
            span *= 1.15 if half else 0.8
        known = recognize_folder(Run(folder), known, report)
    if not Run(folder).completed:
        trainings.start(folder)
        assert trainings.outcome() == 0, "it does not come to its end"
    report.completed = Run(folder).completed
    return report


def recognize_folder(run: Any, known: int, report: Report) -> int:
    """The claims, as far as the files of a killed run show them; returns the newest step that is saved."""
    from engine.runs.checkpoints import broken_checkpoints, verify_files
    from engine.runs.cleanup import clean_up

    folder, half = run.folder, _half_written(run.folder)
    clean_up(folder, own=True)  # what opening the run does first of all
    saved = run.checkpoints()
    for checkpoint in saved:
        verify_files(checkpoint.folder)
        assert checkpoint.resumable
    newest = saved[-1].step if saved else 0
    assert newest >= known, f"step {known} was saved and is gone"
    assert broken_checkpoints(folder) == [], "a broken checkpoint has the name of a whole one"
    rubbish = [path.name for place in ("checkpoints", "previews", ".") for path in (folder / place).glob(".*")]
    rubbish += [path.name for path in folder.glob("*.tmp")]
    assert rubbish == [], "rubbish remains"
    report.finished += bool(half) and newest in half
    done = max((entry["step"] for entry in run.metrics() if "loss" in entry), default=0)
    report.steps_lost.append(max(0, done - newest))
    return newest


def _half_written(folder: Path) -> list[int]:
    """Steps of checkpoints that are being written."""
    names = [path.name for path in (folder / "checkpoints").glob(".writing-*")]
    return [int(name.removeprefix(".writing-step-").split(".")[0]) for name in names]


def _lines(folder: Path) -> int:
    """Steps in the metrics; a resume removes those that it does again."""
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b'"loss"')
    except FileNotFoundError:
        return 0


def _wait_for_saving(folder: Path, process: int) -> bool:
    """Until a checkpoint is being written; False where the process ended first."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if _half_written(folder):
            return True
        if not _runs(process):
            return False
        time.sleep(TICK)
    raise AssertionError("no checkpoint is ever written")


def _wait_for_steps(folder: Path, process: int, chance: random.Random, before: int) -> bool:
    """Until a random number of steps, often none, has been made, and a random moment longer; False: it has ended."""
    wanted, end = chance.choice([0, 0, 1, 2, 3, 5]), time.monotonic() + PATIENCE
    if wanted == 0:
        time.sleep(chance.uniform(0, 1.5))
        return _runs(process)
    lowest = before
    while time.monotonic() < end:
        now = _lines(folder)
        lowest = min(lowest, now)
        if now >= lowest + wanted:
            time.sleep(chance.uniform(0, 0.1))
            return _runs(process)
        if not _runs(process):
            return False
        time.sleep(TICK)
    raise AssertionError("no step is ever made")


def _runs(process: int) -> bool:
    """Whether it has not ended; a process that has, and was not waited for, is a zombie."""
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def prepare(root: Path, steps: int, every: int = 2) -> tuple[Path, Path, Path]:
    """A workspace with the demo's circles, and two runs of the same settings; returns it and their folders."""
    from engine.config.presets import resolve
    from engine.data.dataset import Dataset
    from engine.data.scan import scan_folder
    from engine.demo.circles import make_circles
    from engine.training.new_run import create_run
    from engine.workspace.paths import Workspace
    from tests import tiny_bases

    base = tiny_bases.build(root / "base", root / "tokenizer", tiny_bases.UNET, {})
    workspace = Workspace(root / "workspace")
    Dataset.create(workspace, "circles", scan_folder(make_circles(root / "circles", 12, 64)))
    settings = settings_for(str(base), "circles", steps, every)
    first, second = (create_run(workspace, resolve(("kills", settings))[0], {}).folder for _ in range(2))
    return workspace.root, first, second


def settings_for(base: str, dataset: str, steps: int, every: int) -> dict[str, Any]:
    """Small, with an average, images now and then, and a checkpoint every so many steps."""
    return {
        "model": {"base": base},
        "data": {"dataset": dataset, "resolution": 64, "held_out": 2},
        "optim": {"learning_rate": 1e-3, "ema_decay": 0.9},
        "train": {
            "steps": steps,
            "batch_size": 2,
            "precision": "fp32",
            "checkpoint_every": every,
            "keep_checkpoints": 2,
        },
        "validation": {"every": 10 * every, "pictures": 1, "sampling_steps": 1, "check_every": 0},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=260)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", nargs=2, metavar=("WORKSPACE", "RUN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        sys.exit(train(*options.train))
    from engine.runs.run import Run
    from tests.compare_runs import assert_same_run

    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        workspace, straight, killed = prepare(Path(place), options.steps)
        forks = Forks()
        trainings = Trainings(forks, workspace)
        try:
            kill_often(trainings, straight, 0)
            report = kill_often(trainings, killed, options.kills, options.seed)
        finally:
            forks.close()
        assert_same_run(Run(straight), Run(killed))
        print(report)
        print(f"The run ended with the same weights as one of {options.steps} steps that was never killed.")
        print(f"{time.monotonic() - began:.0f} s in all.")


if __name__ == "__main__":
    main()
