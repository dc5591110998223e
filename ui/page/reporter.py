"""The report on the panel, made once for all pages: it looks through the captions of every dataset."""

from __future__ import annotations

import threading

from engine.jobs.snapshot import Failure
from engine.support.report import Report, compose
from engine.workspace.paths import Workspace
from ui.page.view import View


class Reporter:
    """Remembers the report of the last failure."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._last: tuple[Failure, Report | None] | None = None

    def __call__(self, view: View) -> Report | None:
        """The report of the view's problem. None without one; where it cannot be made, that is said."""
        if view.problem is None:
            return None
        with self._lock:
            if self._last is None or self._last[0] is not view.problem:
                self._last = (view.problem, self._make(view, view.problem))
            return self._last[1]

    def _make(self, view: View, problem: Failure) -> Report | None:
        try:
            return compose(problem, self._workspace, view.snapshot, view.shown_run)
        except Exception as error:
            words = f"No report could be made: {type(error).__name__}.\n\n{problem.what}"
            return Report(words, f"{words}\n{problem.why}\n{problem.details}")
