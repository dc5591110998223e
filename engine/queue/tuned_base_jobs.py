"""The jobs of the queue on tuned bases: of a run that trains the base, or merged with LoRA and embedding files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from engine.export.formats import BASE_FORMATS, Precision, check_format
from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, progress_events
from engine.jobs.snapshot import JobKind, JobSnapshot
from engine.queue.job import JobReport, QueuedJob
from engine.queue.marks import marked_run, run_of
from engine.queue.run_jobs import CheckpointChoice, checkpoint_words, choose, train_to_the_end
from engine.training.new_run import create_run, require_startable
from engine.workspace.paths import Workspace


class TrainOnTunedBase(QueuedJob):
    """Train a ControlNet on the tuned base of a run, whose best checkpoint is exported first."""

    kind = "train-on"
    job_kind = JobKind.TRAIN
    on: str
    """The run that has trained its base, a LoRA or a word."""
    preset: str
    own: dict[str, Any] = Field(default_factory=dict)
    """Settings over those of the preset, by section."""

    @property
    def title(self) -> str:
        return f"Training a ControlNet on {self.on}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        run = marked_run(workspace, mark)
        if run is None:
            from engine.training.follow_up import controlnet_config, exported_for_controlnet

            tuned = run_of(workspace, self.on)
            path = exported_for_controlnet(workspace, tuned, token, progress_events(emit, "Exporting, stages"))
            emit(Message(f"The ControlNet is trained on {path.name}."))
            config, origins = controlnet_config(workspace, tuned, path, self.preset, self.own)
            require_startable(workspace, config)
            run = create_run(workspace, config, origins, queue_entry=mark)
        return train_to_the_end(workspace, run, token, emit)

    def begun(self, workspace: Workspace, mark: str) -> JobSnapshot | None:
        run = marked_run(workspace, mark)
        return run.history() if run is not None else None


class MeasureTransfer(QueuedJob):
    """Compare how a ControlNet obeys on its base, and on it with LoRA and embedding files."""

    kind = "transfer"
    job_kind = JobKind.EVALUATE
    run: str
    files: str
    """One a line, as ``model.ingredients``."""
    checkpoint: CheckpointChoice = "newest"

    @property
    def title(self) -> str:
        return f"Drawing {checkpoint_words(self.checkpoint)} of {self.run} on a LoRA"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        run = run_of(workspace, self.run)
        chosen = choose(run, self.checkpoint, emit)
        from engine.evaluation.transfer_job import measure_transfer
        from engine.evaluation.transfer_report import transfer_folder, transfer_text

        progress = progress_events(emit, "Drawing, steps")
        found = measure_transfer(workspace, run, chosen, self.files, token, progress)
        words = f"Step {chosen.step:,}: {transfer_text(found)}"
        return JobReport("completed", words, str(transfer_folder(run.folder, chosen.step)), run=run.name)


class ExportBase(QueuedJob):
    """Write a base, with LoRA and embedding files in it, for other programs."""

    kind = "export-base"
    job_kind = JobKind.EXPORT
    base: str
    """A base, or one with files, as one line (``engine/workspace/base_reference.py``)."""
    format: str = BASE_FORMATS[0].name
    precision: Precision = "fp16"
    name: str = ""
    folder: str = ""
    """Empty: the workspace's folder of models."""
    overwrite: bool = False

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        return check_format(name, BASE_FORMATS, " of bases")

    @property
    def title(self) -> str:
        return f"Exporting the base {self.base}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        from engine.export.base_export import export_merged

        made = export_merged(
            workspace,
            self.base,
            self.format,
            self.precision,
            self.name,
            Path(self.folder) if self.folder else None,
            self.overwrite,
            token,
            progress_events(emit, "Exporting, stages"),
        )
        return JobReport("completed", f"{made.path}. {made.checked}", str(made.path))
