"""The jobs of the queue that measure settings or sizes, average checkpoints, or import a net."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from engine.config import parse
from engine.errors import UserError
from engine.export.formats import Weights
from engine.jobs.control import Token
from engine.jobs.runner import Emit, progress_events
from engine.jobs.snapshot import JobKind
from engine.machine.hardware import detect
from engine.machine.units import counted
from engine.queue.job import JobReport, QueuedJob
from engine.queue.marks import run_of
from engine.queue.run_jobs import CheckpointChoice, Export, checkpoint_words, choose, write_export
from engine.runs.checkpoints import read_checkpoint
from engine.training.new_run import missing
from engine.workspace.paths import Workspace


class Trial(QueuedJob):
    """Take three steps with these settings, and measure their time and memory."""

    kind = "trial"
    job_kind = JobKind.TRIAL
    config: dict[str, Any]
    """All settings, as in a run.json."""

    @property
    def title(self) -> str:
        return f"Trying three steps on {dict(self.config.get('data') or {}).get('dataset')}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        config = parse(self.config)
        if sentences := missing(workspace, config):
            raise UserError("The trial cannot start.", " ".join(sentences), "Correct this, then try again.")
        from engine.training.preflight import measure_and_record

        return JobReport("completed", measure_and_record(workspace, config, detect(), token, emit))


class Average(Export):
    """Average checkpoints of a run, and export the average with the options of an export."""

    kind = "merge"
    steps: tuple[int, ...] | None = None
    """None: all that are on the disk in the job's turn."""
    average: Literal["equal", "ema"] = "equal"
    decay: float = Field(0.999, gt=0, lt=1)

    @property
    def title(self) -> str:
        return f"Averaging checkpoints of {self.run}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        run = run_of(workspace, self.run)
        from engine.export.checkpoint_average import FOLDER, average_checkpoints, checkpoints_at, free_name

        chosen = checkpoints_at(run, self.steps)
        name = free_name(run, self.average, [one.step for one in chosen])
        progress = progress_events(emit, "Averaging, checkpoints")
        folder = average_checkpoints(chosen, run.folder / FOLDER, name, self.average, self.decay, token, progress)
        made = read_checkpoint(folder)
        assert made is not None  # it was just written
        own = self.model_copy(update={"name": f"{self.name or run.config.name or run.name}-{folder.name}"})
        steps = ", ".join(f"{one.step:,}" for one in chosen)
        return write_export(own, workspace, run, made, f"The average of the steps {steps}", token, emit)


class ImportNet(QueuedJob):
    """Read a ControlNet from a file or folder, and keep it as a run."""

    kind = "import-net"
    job_kind = JobKind.EXPORT
    file: str
    base: str = "demo"
    type: str = ""
    name: str = ""

    @property
    def title(self) -> str:
        return f"Importing {Path(self.file).name}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        from engine.export.imported_run import import_as_run

        progress = progress_events(emit, "Importing, stages")
        run = import_as_run(workspace, self.file, self.base, self.type, self.name, token, progress)
        words = f"It is now in the list of runs as {run.name}: you can try it, export it, or train it further."
        return JobReport("completed", words, str(run.folder), run=run.name)


class CompareSizes(QueuedJob):
    """Measure how much quality each smaller format of a checkpoint loses."""

    kind = "compare"
    job_kind = JobKind.EXPORT
    run: str
    checkpoint: CheckpointChoice = "newest"
    weights: Weights | None = None
    pairs: int = 0
    """Held-out pairs; 0: as many as the run's previews."""

    @property
    def title(self) -> str:
        return f"Measuring sizes of {checkpoint_words(self.checkpoint)} of {self.run}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        run = run_of(workspace, self.run)
        chosen = choose(run, self.checkpoint, emit)
        from engine.export.compare import compare

        weights = "plain" if self.weights == "ema" and not chosen.has_ema else self.weights
        progress = progress_events(emit, "Measuring, formats")
        table = compare(workspace, run, chosen, weights, images=self.pairs, token=token, progress=progress)
        words = f"Step {table.step:,}, {counted(table.pictures, 'held-out image')} for each line."
        return JobReport("completed", words, str(run.exports), run=run.name)


class MeasureEffect(QueuedJob):
    """Measure only the control effect of a checkpoint."""

    kind = "effect"
    job_kind = JobKind.EVALUATE
    run: str
    checkpoint: CheckpointChoice = "newest"

    @property
    def title(self) -> str:
        return f"Measuring the control effect of {checkpoint_words(self.checkpoint)} of {self.run}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        run = run_of(workspace, self.run)
        chosen = choose(run, self.checkpoint, emit)
        from engine.evaluation import report
        from engine.evaluation.effect_job import effect_folder, measure_effect

        found = measure_effect(workspace, run, chosen, token, progress_events(emit))
        words = f"Step {chosen.step:,}: control effect {report.effect_text(found)}."
        return JobReport("completed", words, str(effect_folder(run.folder, chosen.step)), run=run.name)
