"""The jobs of the queue that download: a base model, a set of images, the weights of a condition type."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from engine.bases.catalog import catalog_bases, hub_id, state_of
from engine.conditions import registry
from engine.data import dataset_catalog
from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, progress_events
from engine.jobs.snapshot import JobKind
from engine.machine.units import counted, format_bytes
from engine.queue.data_jobs import get_weights, import_progress
from engine.queue.job import JobReport, QueuedJob
from engine.workspace.paths import Workspace


class DownloadBase(QueuedJob):
    """Download a base model, or continue its download."""

    kind = "bases"
    job_kind = JobKind.BASES
    base: str
    """A name from the list of bases on offer, or owner/name."""

    @property
    def title(self) -> str:
        return f"Downloading {self.base}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        base = hub_id(self.base, catalog_bases())
        state = state_of(workspace, base)
        where = state.where if state.kind == "downloaded" else None
        if where is None:
            from engine.bases.download import ask, download

            wanted = ask(workspace, base, token)
            emit(Message(f"{base}: {counted(len(wanted.files), 'file')}, {format_bytes(wanted.bytes)}."))
            where = download(workspace, wanted, token, progress_events(emit))
        return JobReport("completed", f"{base} is downloaded: {where}", str(where))


class DownloadDataset(QueuedJob):
    """Download a set of images from the list, and make a dataset of it."""

    kind = "datasets"
    job_kind = JobKind.DATASET
    name: str

    @property
    def title(self) -> str:
        return f"Downloading {self.name}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        one = dataset_catalog.dataset_named(self.name)
        folder = workspace.dataset_folder(one.name)
        if dataset_catalog.state_of(workspace, one).kind == "downloaded":
            return JobReport("completed", f"{one.name} is already downloaded.", str(folder), dataset=one.name)
        made = dataset_catalog.download_dataset(workspace, one, token, import_progress(emit))
        words = f"{made.name}: {counted(made.pictures, 'image')}, {counted(made.captioned, 'caption')}."
        return JobReport("completed", words, made.folder, dataset=made.name)


class DownloadWeights(QueuedJob):
    """Download the weights that a condition type lacks."""

    kind = "weights"
    job_kind = JobKind.CONDITIONS
    type: str
    parameters: dict[str, Any] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"Downloading the model for {registry.get(self.type).title}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        return JobReport("completed", get_weights(self.type, self.parameters, token, emit))
