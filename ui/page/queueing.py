"""The queue as the pages use it: adding jobs while another one runs, and how they ended."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from html import escape
from typing import Any

import gradio as gr

from engine.jobs.keep_awake import ATTENDED
from engine.jobs.runner import JobRunner
from engine.jobs.snapshot import JobKind, JobSnapshot
from engine.machine.units import counted
from engine.queue.job import JobReport, QueuedJob
from engine.queue.loop import QueueLoop
from engine.queue.net_jobs import CompareSizes, ImportNet
from engine.workspace.paths import Workspace
from ui.page.view import QueueView
from ui.server.shutdown import Shutdown

DOUBLE_CLICK_SECONDS = 2.0
"""The same job is not added twice within this time."""


OWN_RESULTS = {ImportNet.kind: "import", CompareSizes.kind: "compare"}
"""Jobs whose result is not shown where that of the others of their kind is."""


class Queueing(ABC):
    """The part of the context that holds the queue. Methods may be called from any thread."""

    def __init__(self, workspace: Workspace, runner: JobRunner, shutdown: Shutdown) -> None:
        self.queue = QueueLoop(
            workspace,
            runner,
            before=lambda job: self.free_models(),
            after=self.queued_job_ended,
            closing=lambda: shutdown.requested,
            failed=self.show_problem,
        )
        self._queue_runner = runner
        self._added: tuple[float, QueuedJob | None] = (0.0, None)

    @abstractmethod
    def free_models(self) -> None:
        """Free what the window has loaded. Called before a queued job starts."""

    @abstractmethod
    def files_changed(self) -> None:
        """Read the folders again for the next view."""

    @abstractmethod
    def set_result(self, kind: str, **what: Any) -> None:
        """Show what a job of this kind has made."""

    @abstractmethod
    def check_by_itself(self, dataset: str) -> None:
        """Check a dataset that has new images or maps."""

    @abstractmethod
    def show_problem(self, error: BaseException) -> None:
        """Show an error of the queue itself."""

    @property
    def must_queue(self) -> bool:
        """Whether a job that is started now has to wait, because another one is running or is ahead of it."""
        return self._queue_runner.alive or self.queue.next_is_due

    def add_to_queue(self, job: QueuedJob) -> None:
        """Add a job at the end of the queue, and say so on the page. The second of two clicks is ignored.

        Raises:
            UserError: it cannot be written.
        """
        now = time.monotonic()
        before, self._added = self._added, (now, job)
        if before[1] == job and now - before[0] < DOUBLE_CLICK_SECONDS:
            return
        try:
            self.queue.add(job)
        except BaseException:
            self._added = (0.0, None)  # the next click tries again
            raise
        gr.Info(escape(f"{job.title}: added to the queue."), title="Queue")

    def queued_job_ended(self, job: QueuedJob, report: JobReport) -> None:
        """Show the result of a queued job on its tab. What the user is working on stays as it is."""
        self.files_changed()
        if job.job_kind != JobKind.TRAIN:
            facts = (("File", report.where),) if job.job_kind == JobKind.EXPORT else ()
            where = report.run if job.job_kind == JobKind.GRID else report.where
            self.set_result(OWN_RESULTS.get(job.kind, job.job_kind), note=report.words, facts=facts, where=where)
        if report.dataset and job.job_kind in (JobKind.DATASET, JobKind.CONDITIONS):  # a failed job names none
            self.check_by_itself(report.dataset)

    def queue_view(self) -> QueueView:
        """Return what the pages show of the queue."""
        folder = self.queue.folder
        return QueueView(tuple(folder.entries()), tuple(folder.results()), self.queue.held)

    def progress(self) -> dict[str, Any]:
        """Return what a page's title and notification show (ui/page/title.js): numbers and fixed words, no names."""
        snapshot, waiting = self._queue_runner.snapshot, len(self.queue.folder.waiting())
        idle = not snapshot.alive and not self.queue.next_is_due
        told = idle and snapshot.outcome in ("completed", "failed") and snapshot.kind not in ATTENDED
        done = self.queue.outcomes
        return {
            "running": not idle,
            "percent": percent_of(snapshot),
            "waiting": waiting,
            "ended": snapshot.version if told else 0,
            "words": ended_words(snapshot, done) if told else "",
        }


def percent_of(snapshot: JobSnapshot) -> int | None:
    """Return how far the running job is, 0 to 100. None if nothing runs or it is not known."""
    if not snapshot.alive:
        return None
    if snapshot.kind == JobKind.TRAIN:
        done, total = snapshot.step, snapshot.total_steps
    else:
        done, total = (snapshot.progress.done, snapshot.progress.total) if snapshot.progress else (0, 0)
    return min(100, int(100 * done / total)) if total else None


NOUNS: dict[str, str] = {
    JobKind.TRAIN: "training",
    JobKind.TRIAL: "trial",
    JobKind.BASES: "base models",
    JobKind.DATASET: "dataset",
    JobKind.CAPTIONS: "captions",
    JobKind.CHECK: "dataset check",
    JobKind.CONDITIONS: "condition maps",
    JobKind.GRID: "grid",
    JobKind.TIMELAPSE: "time-lapse",
    JobKind.EVALUATE: "evaluation",
    JobKind.EXPORT: "export",
}


def ended_words(snapshot: JobSnapshot, queued: tuple[str, ...]) -> str:
    """Return how it ended: "Done: training", or of several queued jobs "Done: 3 jobs, 1 failed"."""
    if len(queued) > 1:
        failed = sum(outcome == "failed" for outcome in queued)
        return f"Done: {counted(len(queued), 'job')}{f', {failed} failed' if failed else ''}"
    return f"{'Failed' if snapshot.outcome == 'failed' else 'Done'}: {NOUNS.get(snapshot.kind, 'a job')}"
