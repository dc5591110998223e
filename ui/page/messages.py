"""Small pieces of HTML: notes, lists, progress bars and the status line. Every text that goes in is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Protocol

from engine.jobs.snapshot import JobKind, JobSnapshot
from engine.machine.units import format_duration


class Problem(Protocol):
    """A problem that the scan of a folder found, or anything else with these three sentences."""

    @property
    def what(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def try_this(self) -> str: ...


def problem_list(problems: Iterable[Problem], total: int) -> str:
    """Return a list of problems. ``total`` may be larger than the number listed."""
    items = [
        f"<li><b>{escape(problem.what)}</b> {escape(problem.why)} <i>{escape(problem.try_this)}</i></li>"
        for problem in problems
    ]
    if not items:
        return ""
    more = f"<p class='hint'>And {total - len(items):,} more.</p>" if total > len(items) else ""
    return f"<ul class='problems'>{''.join(items)}</ul>{more}"


def note(text: str, kind: str = "hint") -> str:
    """Return one line of text. ``kind``: hint, good or warning; a sign says the same as the colour."""
    signs = {"good": "✓ ", "warning": "! "}
    return f"<p class='note {escape(kind)}'>{signs.get(kind, '')}{escape(text)}</p>" if text else ""


def duration(seconds: float | None) -> str:
    """Return ``about 3 h 20 min``, or an empty string if nothing is known."""
    return "" if seconds is None or seconds < 0 else f"about {format_duration(seconds)}"


def progress_bar(done: float, total: float, label: str, left: str = "") -> str:
    """Return a bar with its numbers as text. ``left``: the estimated time left."""
    share = min(1.0, done / total) if total else 0.0
    tail = f" · {escape(left)} left" if left else ""
    return (
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="{total:g}" aria-valuenow="{done:g}">'
        f'<div style="width:{share:.1%}"></div></div>'
        f"<p class='hint'>{escape(label)}: {done:,g} of {total:,g} ({share:.0%}){tail}</p>"
    )


def job_progress(snapshot: JobSnapshot) -> str:
    """Return the progress of a running job, or its title while no numbers are known."""
    if not snapshot.alive:
        return ""
    if snapshot.progress is None:
        return note(f"{snapshot.title} …")
    progress = snapshot.progress
    return progress_bar(progress.done, progress.total, progress.label, duration(snapshot.seconds_left))


def status_line(snapshot: JobSnapshot, closing: bool = False) -> str:
    """Return the line in the header: what is running, its step, the time left. A sign says the same as the colour."""
    if closing:
        return "<p class='status busy'><span class='dot' aria-hidden='true'>●</span> The app is closing</p>"
    if not snapshot.alive:
        return "<p class='status idle'><span class='dot' aria-hidden='true'>○</span> Nothing is running</p>"
    parts = [escape(snapshot.title)]
    if snapshot.phase == "waiting":
        parts.append(f"waiting for the disk at step {snapshot.step:,} of {snapshot.total_steps:,}")
    elif snapshot.asked:
        parts.append({"pause": "pausing", "stop": "stopping", "cancel": "cancelling"}[snapshot.asked])
    elif snapshot.progress is not None and snapshot.phase != "validating":
        share = f"{snapshot.progress.done:,} of {snapshot.progress.total:,}"
        parts.append(f"{escape(snapshot.progress.label)}, {share}")
    elif snapshot.kind == JobKind.TRAIN and snapshot.total_steps:
        if snapshot.phase in ("saving", "validating"):
            parts.append({"saving": "saving", "validating": "generating preview images"}[snapshot.phase])
        parts.append(f"step {snapshot.step:,} of {snapshot.total_steps:,}")
    left = duration(snapshot.seconds_left)
    if left and not snapshot.asked and snapshot.phase != "waiting":
        parts.append(f"{left} left")
    text = " · ".join(parts)
    return f"<p class='status busy'><span class='dot' aria-hidden='true'>●</span> {text}</p>"
