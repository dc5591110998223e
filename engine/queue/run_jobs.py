"""The jobs of the queue that train a run, or work with its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from engine.config import parse
from engine.errors import UserError
from engine.estimate.estimate import run_seconds
from engine.evaluation.grid import GridRequest, best_step, write_grid
from engine.export.formats import AS_TRAINED, FORMATS, FORMATS_OF, Precision, Weights, check_format
from engine.families.files import is_local
from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, progress_events
from engine.jobs.snapshot import JobKind, JobSnapshot
from engine.machine.hardware import detect
from engine.machine.units import counted
from engine.queue.job import JobReport, QueuedJob
from engine.queue.marks import marked_run, run_of, set_mark
from engine.runs.checkpoints import Checkpoint
from engine.runs.choice import choose_checkpoint
from engine.runs.run import Run
from engine.training.job import change_run, training_job
from engine.training.new_run import create_run, require_all, require_startable
from engine.workspace.paths import Workspace, safe_name

CheckpointChoice = int | Literal["newest", "best"]
"""A step, or a rule that chooses one when the job's turn comes. "best": by the verdict; the newest where it names
none."""


class Train(QueuedJob):
    """Train a new run. If an earlier attempt has begun it, go on from its last checkpoint."""

    kind = "train"
    job_kind = JobKind.TRAIN
    config: dict[str, Any]
    """All settings, as in a run.json."""
    origins: dict[str, str] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        name = self.config.get("name") or dict(self.config.get("data") or {}).get("dataset")
        return f"Training {name}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        run = marked_run(workspace, mark)
        if run is None:
            config = parse(self.config)
            require_startable(workspace, config)
            run = create_run(workspace, config, self.origins, queue_entry=mark)
        return train_to_the_end(workspace, run, token, emit)

    def begun(self, workspace: Workspace, mark: str) -> JobSnapshot | None:
        run = marked_run(workspace, mark)
        return run.history() if run is not None else None

    def expected_seconds(self, workspace: Workspace) -> float:
        try:
            return run_seconds(parse(self.config), workspace, detect())[0]
        except UserError:
            return 0.0  # for example its dataset is not made yet


class Resume(QueuedJob):
    """Resume a run, with the settings in ``changes``."""

    kind = "resume"
    job_kind = JobKind.TRAIN
    run: str
    changes: dict[str, Any] = Field(default_factory=dict)
    """New values by dotted name."""
    from_step: int | None = None

    @property
    def title(self) -> str:
        return f"Training {self.run}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        run = marked_run(workspace, mark)
        if run is None:  # else an earlier attempt has made the changes, and perhaps gone back already
            run = run_of(workspace, self.run)
            if not (run.completed and not self.changes and self.from_step is None):
                run = change_run(run, self.changes, self.from_step)
            set_mark(run, mark)
        return train_to_the_end(workspace, run, token, emit)

    def begun(self, workspace: Workspace, mark: str) -> JobSnapshot | None:
        try:
            return run_of(workspace, self.run).history()
        except UserError:
            return None  # the job itself says why

    def expected_seconds(self, workspace: Workspace) -> float:
        try:
            run = run_of(workspace, self.run)
            left = 1 - run.last_step / max(1, run.config.train.steps)
            return max(0.0, left) * run_seconds(run.config, workspace, detect())[0]
        except UserError:
            return 0.0


class Evaluate(QueuedJob):
    """The full evaluation of a checkpoint."""

    kind = "evaluate"
    job_kind = JobKind.EVALUATE
    run: str
    checkpoint: CheckpointChoice = "newest"
    pairs: int = Field(64, ge=2, le=512)

    @property
    def title(self) -> str:
        return f"Evaluating {checkpoint_words(self.checkpoint)} of {self.run}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        run = run_of(workspace, self.run)
        chosen = choose(run, self.checkpoint, emit)
        from engine.evaluation import report
        from engine.evaluation.evaluate import evaluate, report_folder

        found = evaluate(workspace, run, chosen, self.pairs, token=token, progress=progress_events(emit))
        words = f"Step {chosen.step:,}: {report.headline(found)}"
        return JobReport("completed", words, str(report_folder(run, chosen.step)), run=run.name)


class DrawGrid(QueuedJob):
    """The grid of several checkpoints."""

    kind = "grid"
    job_kind = JobKind.GRID
    run: str
    steps: tuple[int, ...] | None = None
    without: bool = True
    pictures: tuple[int, ...] = (0, 1)
    controls: tuple[Path, ...] = ()
    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    strengths: tuple[float, ...] = ()
    negative: str = ""
    sampling_steps: int = 0
    guidance: float = 0.0

    @property
    def title(self) -> str:
        return f"Drawing the grid of {self.run}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        run = run_of(workspace, self.run)
        from engine.evaluation.grid_drawing import draw_grid
        from engine.evaluation.grid_sheet import save_sheet, sheet_path
        from engine.evaluation.image_cache import ImageCache
        from engine.inference.session import TrySession

        session = TrySession(workspace)
        request = GridRequest(**self.model_dump(exclude={"run"}))
        try:
            drawn = draw_grid(
                workspace,
                run,
                request,
                session,
                token,
                progress_events(emit, "Images of the grid, steps"),
                on_column=lambda grid: write_grid(run, grid),
            )
        finally:
            session.free()
        path = save_sheet(drawn, ImageCache(workspace), sheet_path(run.folder, "png"), "png")
        words = (
            f"{counted(len(drawn.columns), 'column')} and {counted(len(drawn.rows), 'row')}, also as one image: {path}"
        )
        return JobReport("completed", words, str(path), run=run.name)


class Export(QueuedJob):
    """Write a checkpoint for other programs."""

    kind = "export"
    job_kind = JobKind.EXPORT
    run: str
    checkpoint: CheckpointChoice = "newest"
    format: str = FORMATS[0].name
    precision: Precision = "fp16"
    weights: Weights | None = None
    """None: the EMA weights if there are any."""
    rank: int = AS_TRAINED
    name: str = ""
    folder: str = ""
    """Empty: the run's folder of exports."""
    overwrite: bool = False

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        return check_format(name, [way for ways in FORMATS_OF.values() for way in ways])

    @property
    def title(self) -> str:
        return f"Exporting {checkpoint_words(self.checkpoint)} of {self.run}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        run = run_of(workspace, self.run)
        chosen = choose(run, self.checkpoint, emit)
        return write_export(self, workspace, run, chosen, f"Step {chosen.step:,}", token, emit)


def write_export(
    options: Export, workspace: Workspace, run: Run, chosen: Checkpoint, what: str, token: Token, emit: Emit
) -> JobReport:
    """Write a checkpoint, or an average of several, as the options of an export say. ``what``: it, in words."""
    from engine.export import export
    from engine.export.quantization_check import QuantizationCheck

    made = export(
        chosen.folder,
        options.format,
        Path(options.folder) if options.folder else run.exports,
        safe_name(options.name or run.config.name or run.name),
        options.precision,
        "plain" if options.weights == "ema" and not chosen.has_ema else options.weights,
        options.overwrite,
        token,
        progress_events(emit, "Exporting, stages"),
        _local_base(workspace, run),
        options.rank,
        QuantizationCheck(workspace, run, chosen, token, progress_events(emit, "Measuring the loss, steps")),
    )
    return JobReport("completed", f"{what}: {made.path}. {made.checked}", str(made.path), run=run.name)


def train_to_the_end(workspace: Workspace, run: Run, token: Token, emit: Emit) -> JobReport:
    """Train a run to its last step. A complete run is not trained again."""
    if not run.completed:
        require_all(workspace, run)
        outcome = training_job(workspace, run)(token, emit)
    else:
        outcome = "completed"
    words = f"{run.name}: step {run.last_step:,} of {run.config.train.steps:,}."
    return JobReport(outcome, words, str(run.folder), run=run.name)


def choose(run: Run, wanted: CheckpointChoice, emit: Emit) -> Checkpoint:
    """The checkpoint that a job uses when its turn comes. Notes on the choice go into the log.

    Raises:
        UserError: the run has none.
    """
    step = best_step(run) if wanted == "best" else None if wanted == "newest" else wanted
    chosen, notices = choose_checkpoint(run, step)
    for sentence in notices:
        emit(Message(sentence, "warning"))
    return chosen


def checkpoint_words(wanted: CheckpointChoice) -> str:
    """The choice in a title: "the best checkpoint", "step 1,500"."""
    return f"the {wanted} checkpoint" if isinstance(wanted, str) else f"step {wanted:,}"


def _local_base(workspace: Workspace, run: Run) -> str:
    """The path of the run's base, with which images are compared. Empty if it is not on this disk."""
    try:
        base = workspace.locate_base(run.config.model.whole_base)
    except UserError:
        return ""  # only a Control-LoRA needs it, and reports that itself
    return base if is_local(base) else ""
