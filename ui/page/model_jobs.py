"""Jobs that draw with a run's models: the window's own job, or one that borrows the models of a run in progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.jobs.control import Cancelled, Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, JobRunner, Work
from engine.jobs.snapshot import JobKind, JobSnapshot, Outcome
from engine.queue.job import QueuedJob
from ui.page.context import AppContext
from ui.page.messages import job_progress, note
from ui.page.side_jobs import SideRunner
from ui.page.view import View

if TYPE_CHECKING:
    from engine.inference.session import TrySession
    from engine.jobs.control import CancelToken

POLL_SECONDS = 0.2
"""How often a job that waits for the training looks whether it was cancelled."""

Draw = Callable[["TrySession", "CancelToken"], None]
ModelWork = Callable[[Token, Emit, Callable[[Draw], None]], Outcome]
"""``work(token, emit, use_models)``. ``use_models(draw)`` calls ``draw(session, token)`` once the models are free."""


class ModelJobs:
    """Starts the jobs of one panel of the page, and shows their state.

    While a training runs, a job borrows its models between two steps. Such a job has a runner of its own, as the
    window's runner is busy with the training.
    """

    def __init__(self, context: AppContext, kinds: Sequence[JobKind], side: JobRunner | None = None) -> None:
        """
        Args:
            side: runs the jobs that borrow; None: one whose failures the page shows.
        """
        self.context = context
        self.side = side or SideRunner(context)
        self._kinds = kinds

    @property
    def training(self) -> str:
        """The name of the run that is training now, or an empty string."""
        snapshot = self.context.runner.snapshot
        if not snapshot.is_training:
            return ""
        return snapshot.run_folder.name if snapshot.run_folder else "a new run"

    def start(self, kind: JobKind, title: str, work: ModelWork, queued: QueuedJob | None = None) -> None:
        """Start a job that needs models.

        Args:
            queued: the same job for the queue, to which it is added if one is running that lends no models.

        Raises:
            Busy: another job is running, or one of this panel.
        """
        if self.training:
            self.side.start(kind, title, self._borrowed(work))
        else:
            self._refuse_second(title)
            self.context.start_job(kind, title, self._own(work), queued)

    def start_quietly(self, kind: JobKind, title: str, work: ModelWork) -> None:
        """Start a job that nobody at the page asked for: the panel of an earlier problem stays.

        Raises:
            Busy: another job is running, or one of this panel.
        """
        if self.training:
            self.side.start(kind, title, self._borrowed(work))
        else:
            self._refuse_second(title)
            self.context.runner.start(kind, title, self._own(work))

    def start_without_models(self, kind: JobKind, title: str, work: Work) -> None:
        """Start a job that needs no models. It may run beside any job but those of this panel.

        Raises:
            Busy: a job of this panel is running.
        """
        self.side.start(kind, title, work)

    def cancel(self) -> None:
        """Cancel the job of this panel, but never the training that lends its models."""
        if self.side.alive:
            self.side.cancel()
        elif self.context.runner.snapshot.kind in self._kinds:
            self.context.runner.cancel()

    def job(self, view: View) -> JobSnapshot | None:
        """Return the job of this panel, while it runs."""
        for snapshot in (self.side.snapshot, view.snapshot):
            if snapshot.alive and snapshot.kind in self._kinds:
                return snapshot
        return None

    def blocked_by(self, view: View) -> str:
        """Return the title of the job that has to end before this panel can start one, or an empty string."""
        snapshot = view.snapshot
        return snapshot.title if snapshot.alive and snapshot.kind not in (JobKind.TRAIN, *self._kinds) else ""

    def progress_html(self, view: View) -> str:
        """Return the progress of this panel's job, or what it has to wait for."""
        job, blocked_by = self.job(view), self.blocked_by(view)
        if job is not None:
            waits = job.progress is None and self.training
            return note("Waiting for the next training step …") if waits else job_progress(job)
        if blocked_by:
            return note(f"“{blocked_by}” is running: wait for it to end, or cancel it.")
        return ""

    def _borrowed(self, work: ModelWork) -> Work:
        return lambda token, emit: work(token, emit, lambda draw: self._borrow(token, emit, draw))

    def _own(self, work: ModelWork) -> Work:
        return lambda token, emit: work(token, emit, lambda draw: draw(self.context.try_session(), token))

    def _refuse_second(self, title: str) -> None:
        if self.side.alive:
            self.side.start("", title, lambda token, emit: "failed")  # raises Busy with the title of the first

    def _borrow(self, token: Token, emit: Emit, draw: Draw) -> None:
        """Call ``draw`` in the training's thread between two of its steps, and wait until it is done."""
        from engine.training.lending import borrowing

        begun = False

        def draw_borrowed(session: TrySession, either: CancelToken) -> Any:
            nonlocal begun
            begun = True
            draw(session, either)

        request = borrowing(self.context.workspace, draw_borrowed)
        emit(Message("Waiting for the next training step."))
        if not self.context.runner.send(request):
            raise UserError("Nothing was drawn.", "The training has just ended.", "Start the drawing again.")
        while True:
            try:
                request.wait(POLL_SECONDS)
                return
            except TimeoutError:
                if request.over:
                    raise
            if token.cancelled:
                request.cancel()
                if not begun:  # the next training step may be a long time away; the run then drops the request
                    raise Cancelled
