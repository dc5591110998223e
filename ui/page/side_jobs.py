"""Jobs of one panel that run beside the window's job, because they need neither its models nor its card."""

from __future__ import annotations

from engine.jobs.control import Cancelled, Token
from engine.jobs.runner import Emit, JobRunner, Work
from engine.jobs.snapshot import JobSnapshot, Outcome
from ui.page.context import AppContext


class SideRunner(JobRunner):
    """A runner whose failures appear on the problem panel, like those of the window's own."""

    def __init__(self, context: AppContext) -> None:
        super().__init__()
        self._app = context

    def start(self, kind: str, title: str, work: Work, initial: JobSnapshot | None = None) -> None:
        """Start a job, as ``JobRunner.start`` does.

        Raises:
            Busy: another job of this panel is running.
        """

        def with_problem(token: Token, emit: Emit) -> Outcome:
            try:
                return work(token, emit)
            except Cancelled:
                raise
            except BaseException as error:
                self._app.show_problem(error)
                raise

        if not self.alive:
            self._app.dismiss_problem()
        super().start(kind, title, with_problem, initial)
