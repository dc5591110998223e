"""The queue as HTML: running and waiting jobs with their buttons, the expected time, and the last results."""

from __future__ import annotations

from dataclasses import replace
from html import escape

from engine.jobs.snapshot import JobKind, JobSnapshot
from engine.machine.units import counted, format_duration
from engine.queue.entries import OUTCOMES, Entry, Result
from ui.page.messages import note
from ui.page.queueing import percent_of
from ui.page.view import QueueView

ON_LOAD = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (button) trigger('click', { action: button.dataset.do, id: button.dataset.id });
});
"""
"""Script for gr.HTML: a row's button becomes an event with its action and the job's id."""
SIGNS = {"completed": "✓", "stopped": "■", "cancelled": "■", "failed": "!"}
RULES = (
    "When a job ends, the next one starts, even after a failure. Pause holds the queue and keeps the paused job "
    "first in line. The queue is kept when the app is closed or the computer shuts down."
)


def badge(queue: QueueView) -> str:
    """Return the text of the button in the header. Failures are counted until the list of the last jobs is cleared."""
    number, failed = len(queue.waiting), sum(result.outcome == "failed" for result in queue.results)
    if failed:
        return f"{badge(replace(queue, results=()))}, {failed} failed"
    return f"{number:,} {'on hold' if queue.held else 'waiting'}" if number else "Queue"


def seconds_left(job: JobSnapshot, queue: QueueView) -> tuple[float, bool]:
    """Return the expected seconds until the queue is empty, as far as they are known, and whether all of them are."""
    parts = [entry.seconds for entry in queue.waiting]
    if job.alive:
        parts.insert(0, job.seconds_left or 0.0)
    return sum(parts), all(part > 0 for part in parts)


def summary(job: JobSnapshot, queue: QueueView) -> str:
    """Return how many jobs wait, and how long they will take."""
    if not queue.waiting:
        return "The queue is empty. A job that you start while another one is running is added here."
    text = f"{counted(len(queue.waiting), 'job is', 'jobs are')} waiting."
    seconds, complete = seconds_left(job, queue)
    if seconds:
        least = "About" if complete else "At least"
        text += f" {least} {format_duration(seconds)} until all are done"
        text += "." if complete else "; for some jobs the time is not known."
    return text


def list_html(job: JobSnapshot, queue: QueueView) -> str:
    """Return the running job and the waiting ones, with their buttons."""
    rows = "".join(_waiting(entry, place, len(queue.waiting)) for place, entry in enumerate(queue.waiting, 1))
    if job.alive:
        rows = _running(job) + rows
    table = f"<ol class='queue-list'>{rows}</ol>" if rows else ""
    return f"<p class='note'>{escape(summary(job, queue))}</p>{table}{note(RULES) if queue.waiting else ''}"


def _running(job: JobSnapshot) -> str:
    percent = percent_of(job)
    left = f", about {format_duration(job.seconds_left)} left" if job.seconds_left else ""
    commands = (("pause", "Pause"), ("stop", "Stop")) if job.kind == JobKind.TRAIN else (("cancel", "Cancel"),)
    off = " disabled" if job.asked else ""
    buttons = "".join(
        f"<button type='button' data-do='{action}' aria-label=\"{words}: {escape(job.title, quote=True)}\"{off}>{words}"
        "</button>"
        for action, words in commands
    )
    state = f"running{'' if percent is None else f', {percent} %'}{left}"
    return (
        "<li class='running'><span class='sign' aria-hidden='true'>●</span>"
        f"<span class='what'>{escape(job.title)}</span><span class='hint'>{escape(state)}</span>"
        f"<span class='moves'>{buttons}</span></li>"
    )


def _waiting(entry: Entry, place: int, of: int) -> str:
    expected = f", about {format_duration(entry.seconds)}" if entry.seconds else ""
    added = f"added {entry.added}" if entry.added else "not readable"
    return (
        f"<li><span class='sign' aria-hidden='true'>{place}</span><span class='what'>{escape(entry.title)}</span>"
        f"<span class='hint'>waiting, {escape(added)}{escape(expected)}</span><span class='moves'>"
        f"{_button(entry, 'up', '↑', 'Earlier', place > 1)}{_button(entry, 'down', '↓', 'Later', place < of)}"
        f"{_button(entry, 'remove', '✕', 'Remove from the queue', True)}</span></li>"
    )


def _button(entry: Entry, action: str, sign: str, words: str, enabled: bool) -> str:
    label = escape(f"{words}: {entry.title}", quote=True)
    off = "" if enabled else " disabled"
    return (
        f"<button type='button' data-do='{action}' data-id='{escape(entry.id, quote=True)}' aria-label=\"{label}\" "
        f"title='{words}'{off}>{sign}</button>"
    )


def results_html(queue: QueueView) -> str:
    """Return the results of the last jobs, newest first."""
    if not queue.results:
        return ""
    rows = "".join(_result(result) for result in queue.results)
    return f"<h3>The last jobs of the queue</h3><ul class='queue-list results'>{rows}</ul>"


def _result(result: Result) -> str:
    state = f"{OUTCOMES[result.outcome]} after {format_duration(result.seconds)}, {result.ended}"
    return (
        f"<li class='{result.outcome}'><span class='sign' aria-hidden='true'>{SIGNS[result.outcome]}</span>"
        f"<span class='what'>{escape(result.title)}</span><span class='hint'>{escape(state)}</span>"
        f"<span class='words'>{escape(result.words)}</span></li>"
    )
