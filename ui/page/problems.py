"""The panel at the top of every page that shows an error until the user closes it, with a report to send."""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.jobs.faults import describe_crash
from engine.jobs.runner import JobRunner
from engine.jobs.snapshot import Failure, JobSnapshot
from engine.support.report import Report, compose
from engine.workspace.paths import Workspace
from ui.page.view import View

# Opens the last tab and unfolds the page of common problems there, if it is folded.
SHOW_TROUBLESHOOTING = (
    "this.closest('.problem').querySelector('details').open=false;"
    "document.querySelector('[role=tab][id*=settings]')?.click();"
    "setTimeout(()=>{const box=document.querySelector('#troubleshooting');"
    "if(box&&!box.querySelector('.help')?.offsetParent)box.querySelector('button')?.click();"
    "box?.scrollIntoView();},300);"
)
# navigator.clipboard exists on 127.0.0.1. Over plain http in the network it does not: the selected text can be copied.
COPY_REPORT = (
    "const box=this.closest('.problem').querySelector('pre:not([hidden])');"
    "getSelection().selectAllChildren(box);"
    "if(navigator.clipboard){navigator.clipboard.writeText(box.textContent);this.textContent='Copied';}"
)
CHOOSE_REPORT = (
    "const all=this.closest('.problem').querySelectorAll('pre');"
    "all[0].hidden=this.checked;all[1].hidden=!this.checked;"
    "this.closest('.problem').querySelector('button.copy').textContent='Copy the report';"
)


class Problems:
    """The problem that every page shows: one that a page has raised, or the failure of the last job.

    Methods may be called from any thread.
    """

    def __init__(self, runner: JobRunner) -> None:
        self.runner = runner
        self._problem: Failure | None = None
        self._dismissed: Failure | None = None

    def show_problem(self, error: BaseException) -> None:
        """Put an error on the panel of every page."""
        self._problem = to_failure(error)

    def clear_problem(self) -> None:
        """Forget a page's problem, because something new begins."""
        self._problem = None

    def dismiss_problem(self) -> None:
        """Close the panel."""
        self._problem, self._dismissed = None, self.runner.snapshot.failure

    def current_problem(self, snapshot: JobSnapshot) -> Failure | None:
        """Return what the panel shows, or None."""
        if self._problem is not None:
            return self._problem
        return None if snapshot.failure is self._dismissed else snapshot.failure

    def catch_errors(self, handler: Callable[..., Any], has_outputs: bool = True) -> Callable[..., Any]:
        """Wrap an event handler so that its errors appear on the panel; its outputs then stay as they are."""

        @functools.wraps(handler)
        def run(*arguments: Any) -> Any:
            try:
                return handler(*arguments)
            except Exception as error:  # whatever it is, the user has to see it
                self.show_problem(error)
                return gr.skip() if has_outputs else None  # gradio warns about a skip without outputs

        return run


def to_failure(error: BaseException) -> Failure:
    """Turn an exception into what the panel shows."""
    if isinstance(error, UserError):
        cause = "".join(traceback.format_exception(error)) if error.__cause__ else ""
        return Failure(error.what, error.why, error.try_this, cause, error.offers)
    return describe_crash(error)


class ReportCache:
    """Composes the report of a problem once for all pages, because it searches the captions of every dataset."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._last: tuple[Failure, Report | None] | None = None

    def get(self, view: View) -> Report | None:
        """Return the report of the view's problem, or None if there is no problem."""
        if view.problem is None:
            return None
        with self._lock:
            if self._last is None or self._last[0] is not view.problem:
                self._last = (view.problem, self._compose(view, view.problem))
            return self._last[1]

    def _compose(self, view: View, problem: Failure) -> Report | None:
        try:
            return compose(problem, self._workspace, view.snapshot, view.shown_run)
        except Exception as error:
            text = f"No report could be made: {type(error).__name__}.\n\n{problem.what}"
            return Report(text, f"{text}\n{problem.why}\n{problem.details}")


def problem_html(failure: Failure | None, report: Report | None = None) -> str:
    """Return the HTML of the panel, or an empty string. Without a ``report`` the failure's own text is the report."""
    if failure is None:
        return ""
    if report is None:
        text = "\n".join([failure.what, failure.why, failure.try_this, "", failure.details]).rstrip()
        report = Report(text, text)
    items = (f"<li><b>{escape(offer.title)}</b>: {escape(offer.words)}</li>" for offer in failure.offers)
    offers = f"<ul class='offers'>{''.join(items)}</ul>" if failure.offers else ""
    return (
        '<div class="problem" role="alert">'
        f"<p class='what'><span class='sign' aria-hidden='true'>!</span> {escape(failure.what)}</p>"
        f"<p><b>Why:</b> {escape(failure.why)}</p>"
        f"<p><b>What to try:</b> {escape(failure.try_this)}</p>{offers}"
        "<details><summary>Report for the developers: versions, graphics card, settings, end of the log</summary>"
        f"<pre>{escape(report.public)}</pre><pre hidden>{escape(report.full)}</pre>"
        f'<button type="button" class="copy" onclick="{COPY_REPORT}">Copy the report</button> '
        f'<label><input type="checkbox" onchange="{CHOOSE_REPORT}"> include my folders, file names and captions</label>'
        "</details>"
        f'<button type="button" class="link" onclick="{SHOW_TROUBLESHOOTING}">Common problems and solutions</button>'
        "</div>"
    )
