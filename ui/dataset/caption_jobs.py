"""The work of the Captions panel. A small dataset is changed at once, a large one by a background job."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.jobs.control import Cancelled, Token
from engine.jobs.runner import Emit, JobRunner, progress_events
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.units import counted
from engine.queue.data_jobs import WriteCaptions
from engine.queue.job import QueuedJob
from ui.page.choices import open_dataset, pick_dataset
from ui.page.context import AppContext
from ui.page.messages import note

if TYPE_CHECKING:
    from engine.data.caption_edits import Change
    from engine.data.dataset import Dataset

KIND = JobKind.CAPTIONS
AT_ONCE = 5000
"""Up to this many captions are changed at once, also while the window's runner is busy."""
WAIT_SECONDS = 2.0
"""The page waits this long for such a change, then it shows the progress and Cancel."""
REPLACE, ADD, CLEAN, TEMPLATE, NAMES = "replace", "add", "clean", "template", "names"
OPERATIONS = (
    ("Search and replace", REPLACE),
    ("Add text", ADD),
    ("Remove strange characters", CLEAN),
    ("Caption from a template", TEMPLATE),
    ("Caption from the file name", NAMES),
)

Report = tuple[str, tuple[tuple[str, str], ...]]
"""A sentence about what an operation did, and pairs of captions before and after."""


def change_of(operation: str, fields: dict[str, Any]) -> tuple[str, Change]:
    """Return the name of an operation for the history, and its function from caption to caption.

    Raises:
        UserError: a field is wrong.
    """
    from engine.data import caption_edits as edits

    if operation == REPLACE:
        old, new = fields["search"] or "", fields["by"] or ""
        how = {"regex": fields["regex"], "match_case": fields["case"], "whole_words": fields["words"]}
        return f"Replaced “{old}” with “{new}”", edits.replacing(old, new, **how)
    if operation == ADD:
        given = {name: (fields[name] or "").strip() for name in ("prefix", "suffix", "trigger")}
        added = ", ".join(f"{name} “{value}”" for name, value in given.items() if value)
        return f"Added {added}", edits.adding(**given)
    if operation == TEMPLATE:
        template = fields["template"] or ""
        return f"Template “{template}”", edits.templating(template, fields["only_empty"])
    if operation == NAMES:
        return "Captions from file names", edits.naming(fields["only_empty"])
    return "Removed strange characters", edits.cleaning()


def preview(context: AppContext, side: JobRunner, name: str | None, operation: str, fields: dict[str, Any]) -> None:
    """Show how many captions an operation would change, with examples."""

    def work(dataset: Dataset, token: Token, emit: Emit) -> Report:
        from engine.data import caption_edits as edits

        _, change = change_of(operation, fields)
        found = edits.preview(dataset, change, token, progress_events(emit, "Captions read"))
        sentence = f"{found.changed:,} of {counted(found.total, 'caption')} would change."
        return sentence, tuple((before, after) for _, before, after in found.examples)

    change_of(operation, fields)  # report a wrong field before anything starts
    _run(context, name, "Reading captions", work, side=side)


def apply(context: AppContext, side: JobRunner, name: str | None, operation: str, fields: dict[str, Any]) -> None:
    """Change all captions, as one operation that can be undone."""

    def work(dataset: Dataset, token: Token, emit: Emit) -> Report:
        from engine.data import caption_edits as edits

        what, change = change_of(operation, fields)
        changed = edits.apply(dataset, what, change, token, progress_events(emit, "Captions changed"))
        return f"{what}: {counted(changed, 'caption')} changed.", ()

    change_of(operation, fields)
    _run(context, name, "Changing captions", work, side=side)


def write_by_model(
    context: AppContext, name: str | None, model: str, length: str, only_empty: bool, batch: float
) -> None:
    """Let a model write captions. This is always a job."""

    def work(dataset: Dataset, token: Token, emit: Emit) -> Report:
        from engine.data.autocaption import caption_all, load

        captioner = load(model.strip(), context.workspace.models)
        report = caption_all(
            dataset,
            captioner,
            token,
            progress_events(emit, "Captions written"),
            only_empty=only_empty,
            length=length,
            batch=max(1, int(batch or 1)),
        )
        unread = len(report.failures)
        failed = f", {counted(unread, 'image')} could not be read" if unread else ""
        return f"{counted(report.written, 'caption')} written, {report.kept:,} kept{failed}.", ()

    queued = WriteCaptions(
        dataset=open_dataset(context, name).name,
        model=model.strip(),
        length=length,  # type: ignore[arg-type]
        only_empty=only_empty,
        batch=max(1, int(batch or 1)),
    )
    _run(context, name, "Writing captions", work, queued)


def save_edits(context: AppContext, name: str | None, typed: dict[str, str]) -> None:
    """Save captions that were typed into the table, by the key of their image."""
    from engine.data import caption_edits as edits

    changed = edits.set_captions(open_dataset(context, name), typed) if typed else 0
    context.set_result(KIND, note=f"{counted(changed, 'caption')} changed.")


def undo(context: AppContext, name: str | None) -> None:
    """Undo the newest operation."""
    undone = open_dataset(context, name).captions.undo()
    text = f"Undone: {undone.what} ({counted(undone.changed, 'caption')})." if undone else ""
    context.set_result(KIND, note=text or "There is nothing to undo.")


def _run(
    context: AppContext,
    name: str | None,
    title: str,
    work: Callable[[Dataset, Token, Emit], Report],
    queued: QueuedJob | None = None,
    side: JobRunner | None = None,
) -> None:
    """Do the work by ``side``, or by the window's runner where the dataset is large or the work may be queued."""
    dataset = open_dataset(context, name)

    def job(token: Token, emit: Emit) -> Outcome:
        try:
            sentence, examples = work(dataset, token, emit)
        except Cancelled:
            if side is not None:
                context.set_result(KIND, note="Cancelled. No caption was changed.")
            raise
        context.set_result(KIND, note=sentence, facts=examples)
        return "completed"

    if side is None or dataset.count() > AT_ONCE:
        context.start_job(KIND, title, job, queued)
    else:
        side.start(KIND, title, job)
        side.wait(WAIT_SECONDS)


def summary(context: AppContext, name: str | None) -> str:
    """Return how many captions are empty, and what that means for the next run."""
    from engine.data import caption_edits as edits
    from engine.data.captions import meaning

    if not pick_dataset(context, name):
        return note("No dataset yet: read a folder of images above.")
    state = edits.empty(open_dataset(context, name))
    try:
        dropout = context.config_of(context.draft)[0].objective.prompt_dropout
    except UserError:
        dropout = None  # the form on the Train tab says what is wrong
    text = note(meaning(state.share), "warning" if state.share > 0.5 else "hint")
    if dropout is not None and state.total:
        without = dropout + (1 - dropout) * state.share
        text += note(
            f"With prompt dropout at {dropout:.0%}, the next run sees {without:.0%} of its images without a prompt."
        )
    head = f"<b>{counted(state.total, 'caption')}</b>, {state.empty:,} empty"
    return f"<p class='facts'>{head}</p>{text}"


def history(context: AppContext, name: str | None) -> tuple[str, bool]:
    """Return the operations, newest first, and whether there is one to undo."""
    if not pick_dataset(context, name):
        return "", False
    entries = open_dataset(context, name).captions.history()
    if not entries:
        return note("No changes yet. The last 50 can be undone, even after a restart."), False
    rows = "".join(
        f"<li>{escape(entry.what)} <span class='hint'>{counted(entry.changed, 'caption')}"
        f"{', unfinished: run it again to continue' if entry.unfinished else ''}</span></li>"
        for entry in entries
    )
    return f"<ol class='history'>{rows}</ol>", True


def result_html(sentence: str, examples: tuple[tuple[str, str], ...]) -> str:
    """Return the report of the last operation as HTML."""
    rows = "".join(
        f"<tr><td><del>{escape(before) or '<i>(empty)</i>'}</del></td><td>{escape(after) or '<i>(empty)</i>'}</td></tr>"
        for before, after in examples
    )
    return note(sentence, "good") + (f"<table class='before-after'>{rows}</table>" if rows else "")
