"""Runs one entry of the queue and records its result. The window and the command line share it."""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import UserError
from engine.jobs.control import Cancelled, Token
from engine.jobs.events import Message
from engine.jobs.faults import describe_crash
from engine.jobs.runner import Emit
from engine.machine.clock import active_time
from engine.queue.entries import Entry, EntryOutcome
from engine.queue.folder import QueueFolder
from engine.queue.job import JobReport
from engine.queue.kinds import job_of
from engine.workspace.paths import Workspace


def perform(
    workspace: Workspace,
    queue: QueueFolder,
    entry: Entry,
    token: Token,
    emit: Emit,
    closing: Callable[[], bool] = lambda: False,
) -> JobReport:
    """Run a taken entry. It waits again if it was paused or the app closes; otherwise its result is kept.

    Args:
        closing: whether the app is about to end, so that it was not the user who cancelled.

    Raises:
        Cancelled: it was cancelled or, a job that cannot be paused, paused.
        UserError, Exception: it failed. The reason is kept in the queue's results.
    """
    began = active_time()

    def finish(outcome: EntryOutcome, words: str) -> None:
        try:
            queue.finish(entry, outcome, words, active_time() - began)
        except OSError as error:
            text = f"The result of the queued job “{entry.title}” could not be written: {error.strerror or error}."
            emit(Message(text, "warning"))

    try:
        report = job_of(entry).do(workspace, entry.id, token, emit)
    except Cancelled:
        if closing() or token.stop_requested == "pause":
            queue.put_back(entry)
        else:
            finish("cancelled", "It was cancelled. Finished work is kept.")
        raise
    except UserError as error:
        finish("failed", f"{error.what} {error.why} {error.try_this}")
        raise
    except Exception as error:
        failure = describe_crash(error)
        finish("failed", f"{failure.what} {failure.why} {failure.try_this}")
        raise
    except BaseException:  # Ctrl-C a second time: the process ends
        queue.put_back(entry)
        raise
    if report.outcome == "paused" or (report.outcome != "completed" and closing()):
        queue.put_back(entry)
    else:
        finish("completed" if report.outcome == "completed" else "stopped", report.words)
    return report
