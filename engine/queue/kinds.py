"""All kinds of jobs that can wait in the queue, and the way from an entry to its job."""

from __future__ import annotations

from pydantic import ValidationError

from engine.config import describe
from engine.errors import UserError
from engine.queue.data_jobs import CheckDataset, ImportDataset, MakeMaps, WriteCaptions
from engine.queue.download_jobs import DownloadBase, DownloadDataset, DownloadWeights
from engine.queue.entries import Entry
from engine.queue.job import QueuedJob
from engine.queue.net_jobs import Average, CompareSizes, ImportNet, MeasureEffect, Trial
from engine.queue.run_jobs import DrawGrid, Evaluate, Export, Resume, Train
from engine.queue.tuned_base_jobs import ExportBase, MeasureTransfer, TrainOnTunedBase

OF_DATA: tuple[type[QueuedJob], ...] = (ImportDataset, WriteCaptions, CheckDataset, MakeMaps)
DOWNLOADS: tuple[type[QueuedJob], ...] = (DownloadDataset, DownloadBase, DownloadWeights)
OF_RUNS: tuple[type[QueuedJob], ...] = (Trial, Train, Resume, Evaluate, MeasureEffect, DrawGrid)
OF_FILES: tuple[type[QueuedJob], ...] = (Export, Average, CompareSizes, ImportNet, ExportBase)
OF_TUNED_BASES: tuple[type[QueuedJob], ...] = (TrainOnTunedBase, MeasureTransfer)
KINDS: dict[str, type[QueuedJob]] = {
    job.kind: job for job in (*OF_DATA, *DOWNLOADS, *OF_RUNS, *OF_FILES, *OF_TUNED_BASES)
}


def job_of(entry: Entry) -> QueuedJob:
    """The job of an entry.

    Raises:
        UserError: its file is damaged, or another version of the app has written it.
    """
    kind = KINDS.get(entry.kind)
    try:
        if kind is None:
            raise UserError(
                f"{entry.title} cannot be done.",
                "Its file in the workspace's folder queue is damaged, or was written by a newer version of the app.",
                "Add the job again.",
            )
        return kind.model_validate(entry.settings)
    except ValidationError as error:
        raise UserError(f"{entry.title} cannot be done.", describe(error), "Add the job again.") from error
