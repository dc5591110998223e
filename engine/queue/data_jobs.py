"""The jobs of the queue that make a dataset: read images, write captions, check it, make condition maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from engine.conditions import registry, weights
from engine.data.dataset import Dataset
from engine.data.import_config import ImportConfig
from engine.hub.download import LABEL
from engine.jobs.control import OnProgress, Token
from engine.jobs.events import Message, Progress
from engine.jobs.runner import Emit, progress_events
from engine.jobs.snapshot import JobKind
from engine.machine.units import counted
from engine.queue.job import JobReport, QueuedJob
from engine.workspace.paths import Workspace

STAGES = ("Images downloaded", "Images unpacked", "Images fetched", "Megabytes unpacked", LABEL)
"""Labels of what an import does before it reads the images."""


def import_progress(emit: Emit) -> OnProgress:
    """A progress callback for an import. Its scan reports file names, which all become one label."""
    return progress_events(emit, "Images read", own=STAGES)


class ImportDataset(QueuedJob):
    """Make a dataset of a folder of images or another source, or read it again."""

    kind = "import"
    job_kind = JobKind.DATASET
    place: str
    name: str = ""
    options: ImportConfig = Field(default_factory=ImportConfig)

    @property
    def title(self) -> str:
        return f"Reading {self.name or Path(self.place).name or self.place}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        from engine.data.importing import import_source

        made = import_source(workspace, self.place, self.name, self.options, import_progress(emit), token)
        holds = f"{counted(made.pictures, 'image')}, {counted(made.captioned, 'caption')}"
        words = f"{made.name}: {holds}. Found: {made.found}."
        return JobReport("completed", words, made.folder, dataset=made.name)


class WriteCaptions(QueuedJob):
    """Let a model write the captions of a dataset."""

    kind = "captions"
    job_kind = JobKind.CAPTIONS
    dataset: str
    model: str
    length: Literal["short", "detailed", "long"] = "short"
    only_empty: bool = True
    batch: int = Field(8, ge=1, le=256)

    @property
    def title(self) -> str:
        return f"Writing captions of {self.dataset}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        dataset = Dataset.open(workspace.dataset_folder(self.dataset))  # before anything heavy: it may be gone
        from engine.data.autocaption import caption_all, load

        captioner = load(self.model, workspace.models)
        done = caption_all(
            dataset,
            captioner,
            token,
            progress_events(emit, "Captions written"),
            only_empty=self.only_empty,
            length=self.length,
            batch=self.batch,
        )
        failed = counted(len(done.failures), "image")
        words = f"{counted(done.written, 'caption')} written, {done.kept:,} kept, {failed} could not be read."
        return JobReport("completed", words, dataset=dataset.name)


class CheckDataset(QueuedJob):
    """Check a dataset, or first correct what the check has found."""

    kind = "check"
    job_kind = JobKind.CHECK
    dataset: str
    resolution: int = Field(512, ge=64, le=2048)
    """Of the training, in pixels."""
    held_out: int = Field(16, ge=1)
    correct: tuple[str, ...] = ()
    """Findings (``Finding.name``) whose copies are corrected first."""
    base: str = ""
    """Whose VAE the control images are looked at through, if its ControlNets read latents. Empty: none."""

    @property
    def title(self) -> str:
        return f"{'Correcting' if self.correct else 'Checking'} {self.dataset}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        dataset = Dataset.open(workspace.dataset_folder(self.dataset))
        from engine.data.crop_plan import CropPlan
        from engine.data.doctor import fix
        from engine.data.doctor.catalogue import named
        from engine.data.doctor.check import check
        from engine.data.doctor.lost_lines import measure_lines
        from engine.data.through_vae import LABEL as THROUGH_VAE

        corrected = 0
        for name in self.correct:
            corrected += fix.correct(dataset, named(name), token, progress_events(emit, "Copies written"))
        done = check(dataset, self.resolution, self.held_out, token, progress_events(emit, "Images checked"))
        if self.base:
            plan, progress = CropPlan(self.resolution), progress_events(emit, THROUGH_VAE)
            measure_lines(workspace, dataset, self.base, plan, token, progress)
        found = sum(1 for state in fix.states(dataset) if state.open)
        words = f"{counted(done.pictures, 'image')} checked, {counted(found, 'finding')}."
        if self.correct:
            words = f"{counted(corrected, 'corrected copy', 'corrected copies')} written. {words}"
        return JobReport("completed", words, dataset=dataset.name)


class MakeMaps(QueuedJob):
    """Make the condition maps of a dataset."""

    kind = "maps"
    job_kind = JobKind.CONDITIONS
    dataset: str
    type: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    side: int | None = None
    varied: int | None = None
    download: bool = False
    """First download the weights that are missing."""

    @property
    def title(self) -> str:
        return f"Making maps of {self.dataset}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        dataset = Dataset.open(workspace.dataset_folder(self.dataset))
        if self.download:
            emit(Message(get_weights(self.type, dataset.like_its_maps(self.type, self.parameters), token, emit)))
        from engine.data.make_maps import make_all

        made = make_all(
            dataset,
            self.type,
            dataset.like_its_maps(self.type, self.parameters),
            token,
            progress_events(emit, "Maps made"),
            resolution=self.side,
            varied=self.varied,
        )
        words = f"{counted(made.made, 'map')} made, {made.kept:,} kept, {len(made.failures):,} failed."
        return JobReport("completed", words, dataset=dataset.name)


def get_weights(type: str, parameters: Mapping[str, Any], token: Token, emit: Emit) -> str:
    """Download what a condition type lacks, and return a sentence that says what that was.

    Args:
        parameters: those that are not given have their usual values.

    Raises:
        UserError: the hub cannot be reached or refuses. Cancelled.
    """
    kind = registry.get(type)
    missing = weights.missing(kind, registry.resolve_parameters(kind.name, parameters))
    for done, entry in enumerate(missing):
        emit(Progress(done, len(missing), f"{entry.name}, about {entry.model.megabytes:,} MB"))
        weights.download([entry], token)
    names = ", ".join(f"{entry.name} ({entry.target})" for entry in missing)
    return f"Downloaded: {names}." if names else "The model was already downloaded."
