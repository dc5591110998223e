"""Problems in words: the persistent panel, lists and status lines. Everything that goes in is escaped."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from html import escape
from typing import Protocol

from engine.errors import UserError
from engine.jobs.faults import describe_crash
from engine.jobs.snapshot import Failure, JobSnapshot
from engine.machine.units import format_duration
from engine.support.report import Report

# The page of common problems lies on the last tab; it is unfolded if it is not.
TROUBLE = (
    "this.closest('.problem').querySelector('details').open=false;"
    "document.querySelector('[role=tab][id*=settings]')?.click();"
    "setTimeout(()=>{const box=document.querySelector('#troubleshooting');"
    "if(box&&!box.querySelector('.help')?.offsetParent)box.querySelector('button')?.click();"
    "box?.scrollIntoView();},300);"
)


class Described(Protocol):
    """A problem of the data scan, or anything else with the three sentences."""

    @property
    def what(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def try_this(self) -> str: ...


def to_failure(error: BaseException) -> Failure:
    """What the panel shows for an exception."""
    if isinstance(error, UserError):
        cause = "".join(traceback.format_exception(error)) if error.__cause__ else ""
        return Failure(error.what, error.why, error.try_this, cause)
    return describe_crash(error)


def problem_panel(failure: Failure | None, report: Report | None = None) -> str:
    """HTML of the panel, empty without a failure. Without a ``report`` the failure's own words are one."""
    if failure is None:
        return ""
    if report is None:
        words = "\n".join([failure.what, failure.why, failure.try_this, "", failure.details]).rstrip()
        report = Report(words, words)
    # navigator.clipboard is there on 127.0.0.1; where it is not (plain http in the network) the text can be selected.
    copy = (
        "const box=this.closest('.problem').querySelector('pre:not([hidden])');"
        "getSelection().selectAllChildren(box);"
        "if(navigator.clipboard){navigator.clipboard.writeText(box.textContent);this.textContent='Copied';}"
    )
    choose = (
        "const all=this.closest('.problem').querySelectorAll('pre');"
        "all[0].hidden=this.checked;all[1].hidden=!this.checked;"
        "this.closest('.problem').querySelector('button.copy').textContent='Copy the report';"
    )
    return (
        '<div class="problem" role="alert">'
        f"<p class='what'><span class='sign' aria-hidden='true'>!</span> {escape(failure.what)}</p>"
        f"<p><b>Why:</b> {escape(failure.why)}</p>"
        f"<p><b>What to try:</b> {escape(failure.try_this)}</p>"
        "<details><summary>Report for the project: versions, card, settings, the log's end</summary>"
        f"<pre>{escape(report.public)}</pre><pre hidden>{escape(report.whole)}</pre>"
        f'<button type="button" class="copy" onclick="{copy}">Copy the report</button> '
        f'<label><input type="checkbox" onchange="{choose}"> with my folders, file names and captions</label></details>'
        f'<button type="button" class="link" onclick="{TROUBLE}">Common problems and their answers</button></div>'
    )


def problem_list(problems: Iterable[Described], total: int) -> str:
    """HTML of what the scan could not use; ``total`` may be more than is listed."""
    items = [
        f"<li><b>{escape(problem.what)}</b> {escape(problem.why)} <i>{escape(problem.try_this)}</i></li>"
        for problem in problems
    ]
    if not items:
        return ""
    more = f"<p class='hint'>And {total - len(items):,} more.</p>" if total > len(items) else ""
    return f"<ul class='problems'>{''.join(items)}</ul>{more}"


def note(text: str, kind: str = "hint") -> str:
    """One quiet line. ``kind``: hint, good or warning; a sign says the same as the colour."""
    signs = {"good": "✓ ", "warning": "! "}
    return f"<p class='note {escape(kind)}'>{signs.get(kind, '')}{escape(text)}</p>" if text else ""


def counted(number: int, one: str, many: str) -> str:
    """``1 file``, ``2,000 files``."""
    return f"{number:,} {one if number == 1 else many}"


def duration(seconds: float | None) -> str:
    """``about 3 h 20 min``; empty where nothing is known."""
    return "" if seconds is None or seconds < 0 else f"about {format_duration(seconds)}"


def progress_bar(done: float, total: float, label: str, left: str = "") -> str:
    """A bar with its figures in words."""
    share = min(1.0, done / total) if total else 0.0
    tail = f" · {escape(left)} left" if left else ""
    return (
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="{total:g}" aria-valuenow="{done:g}">'
        f'<div style="width:{share:.1%}"></div></div>'
        f"<p class='hint'>{escape(label)}: {done:,g} of {total:,g} ({share:.0%}){tail}</p>"
    )


def job_progress(snapshot: JobSnapshot) -> str:
    """Progress of the job of a tab, or nothing while no figures are known."""
    if not snapshot.alive:
        return ""
    if snapshot.progress is None:
        return note(f"{snapshot.title} …")
    progress = snapshot.progress
    return progress_bar(progress.done, progress.total, progress.label, duration(snapshot.seconds_left))


def status_line(snapshot: JobSnapshot, closing: bool = False) -> str:
    """The header's line: what runs, which step, how long it takes. Told by words and a sign, never by colour alone."""
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
    elif snapshot.kind == "train" and snapshot.total_steps:
        if snapshot.phase in ("saving", "validating"):
            parts.append({"saving": "saving", "validating": "making control images"}[snapshot.phase])
        parts.append(f"step {snapshot.step:,} of {snapshot.total_steps:,}")
    left = duration(snapshot.seconds_left)
    if left and not snapshot.asked and snapshot.phase != "waiting":
        parts.append(f"{left} left")
    text = " · ".join(parts)
    return f"<p class='status busy'><span class='dot' aria-hidden='true'>●</span> {text}</p>"
