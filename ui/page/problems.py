"""The problem that stands on the persistent panel of every page: a page's own, or that of the last job."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gradio as gr

from engine.jobs.runner import JobRunner
from engine.jobs.snapshot import Failure, JobSnapshot
from ui.page.messages import to_failure


class ProblemPanel:
    """One for the process; it is a part of the context. Methods may be called from any thread."""

    def __init__(self, runner: JobRunner) -> None:
        self.runner = runner
        self._problem: Failure | None = None
        self._dismissed: Failure | None = None

    def show_problem(self, error: BaseException) -> None:
        """Put an error on the persistent panel of every page."""
        self._problem = to_failure(error)

    def forget_problem(self) -> None:
        """Something new begins: an old problem is no longer of interest."""
        self._problem = None

    def dismiss(self) -> None:
        """Take the panel away."""
        self._problem, self._dismissed = None, self.runner.snapshot.failure

    def current_problem(self, snapshot: JobSnapshot) -> Failure | None:
        """What the panel shows, if anything."""
        if self._problem is not None:
            return self._problem
        return None if snapshot.failure is self._dismissed else snapshot.failure

    def guarded(self, handler: Callable[..., Any], fills: bool = True) -> Callable[..., Any]:
        """A handler whose errors land on the panel; what it ``fills``, if anything, stays as it is then."""

        @functools.wraps(handler)
        def run(*arguments: Any) -> Any:
            try:
                return handler(*arguments)
            except Exception as error:  # the last line of defence of a page: people get to see whatever it is
                self.show_problem(error)
                return gr.skip() if fills else None  # gradio warns of a skip that has no output

        return run
