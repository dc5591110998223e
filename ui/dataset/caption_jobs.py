"""What the captions panel does, in words and jobs. Small sets are changed at once, large ones by a background job."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.jobs.control import Control, Token
from engine.jobs.events import Event
from engine.jobs.runner import Emit
from engine.jobs.snapshot import JobKind, Outcome
from ui.page.choices import open_dataset, pick_dataset
from ui.page.context import AppContext
from ui.page.jobs import progress_events
from ui.page.messages import counted, note

if TYPE_CHECKING:
    from engine.data.caption_edits import Change
    from engine.data.dataset import Dataset

KIND = JobKind.CAPTIONS
AT_ONCE = 5000  # captions that are changed while the button is still down
REPLACE, ADD, CLEAN, TEMPLATE, NAMES = "replace", "add", "clean", "template", "names"
OPERATIONS = (
    ("Search and replace", REPLACE),
    ("Add words", ADD),
    ("Remove strange characters", CLEAN),
    ("One caption for all", TEMPLATE),
    ("From file names", NAMES),
)

Told = tuple[str, tuple[tuple[str, str], ...]]
"""A sentence, and pairs of captions before and after."""


def change_of(operation: str, fields: dict[str, Any]) -> tuple[str, Change]:
    """The operation's name in the history, and what it does to one caption. Raises UserError for a wrong field."""
    from engine.data import caption_edits as edits

    if operation == REPLACE:
        old, new = fields["search"] or "", fields["by"] or ""
        how = {"regex": fields["regex"], "match_case": fields["case"], "whole_words": fields["words"]}
        return f"Replaced “{old}” by “{new}”", edits.replacing(old, new, **how)
    if operation == ADD:
        given = {name: (fields[name] or "").strip() for name in ("prefix", "suffix", "trigger")}
        words = ", ".join(f"{name} “{value}”" for name, value in given.items() if value)
        return f"Added {words}", edits.adding(**given)
    if operation == TEMPLATE:
        template = fields["template"] or ""
        return f"Template “{template}”", edits.templating(template, fields["only_empty"])
    if operation == NAMES:
        return "Captions from file names", edits.naming(fields["only_empty"])
    return "Removed strange characters", edits.cleaning()


def try_out(context: AppContext, name: str | None, operation: str, fields: dict[str, Any]) -> None:
    """Show how many captions would change, with examples."""

    def work(dataset: Dataset, token: Token, emit: Emit) -> Told:
        from engine.data import caption_edits as edits

        _, change = change_of(operation, fields)
        seen = edits.preview(dataset, change, token, progress_events(emit, "Captions looked at"))
        told = f"{seen.changed:,} of {counted(seen.total, 'caption', 'captions')} would change."
        return told, tuple((before, after) for _, before, after in seen.examples)

    change_of(operation, fields)  # mistakes are told before anything starts
    _do(context, name, "Looking at the captions", work)


def carry_out(context: AppContext, name: str | None, operation: str, fields: dict[str, Any]) -> None:
    """Change the captions, as one operation that can be undone."""

    def work(dataset: Dataset, token: Token, emit: Emit) -> Told:
        from engine.data import caption_edits as edits

        what, change = change_of(operation, fields)
        changed = edits.apply(dataset, what, change, token, progress_events(emit, "Captions changed"))
        return f"{what}: {counted(changed, 'caption', 'captions')} changed.", ()

    change_of(operation, fields)
    _do(context, name, "Changing captions", work)


def write_by_model(
    context: AppContext, name: str | None, model: str, length: str, only_empty: bool, batch: float
) -> None:
    """Have a model write captions, always as a job."""

    def work(dataset: Dataset, token: Token, emit: Emit) -> Told:
        from engine.data.autocaption import caption_all, load

        captioner = load(model.strip(), context.workspace.models)
        report = caption_all(
            dataset, captioner, token, progress_events(emit, "Captions written"),
            only_empty=only_empty, length=length, batch=max(1, int(batch or 1)),
        )  # fmt: skip
        failed = f", {counted(len(report.failures), 'image', 'images')} could not be read" if report.failures else ""
        return f"{counted(report.written, 'caption', 'captions')} written, {report.kept:,} kept{failed}.", ()

    _do(context, name, "Writing captions", work, always_job=True)


def save_by_hand(context: AppContext, name: str | None, typed: dict[str, str]) -> None:
    """Captions that were typed into the table."""
    from engine.data import caption_edits as edits

    changed = edits.set_captions(open_dataset(context, name), typed) if typed else 0
    context.set_result(KIND, note=f"{counted(changed, 'caption', 'captions')} changed.")


def undo(context: AppContext, name: str | None) -> None:
    """Take the newest operation back."""
    undone = open_dataset(context, name).captions.undo()
    words = f"Undone: {undone.what} ({counted(undone.changed, 'caption', 'captions')})." if undone else ""
    context.set_result(KIND, note=words or "There is nothing to undo.")


def _do(
    context: AppContext,
    name: str | None,
    title: str,
    work: Callable[[Dataset, Token, Emit], Told],
    always_job: bool = False,
) -> None:
    dataset = open_dataset(context, name)

    def job(token: Token, emit: Emit) -> Outcome:
        told, examples = work(dataset, token, emit)
        context.set_result(KIND, note=told, facts=examples)
        return "completed"

    if always_job or dataset.count() > AT_ONCE:
        context.start_job(KIND, title, job)
    else:
        job(Control().token, _unheard)


def _unheard(event: Event) -> None:
    """Progress of what takes no time."""


def facts(context: AppContext, name: str | None) -> str:
    """How many captions are empty, what that means for training, and what the next run does about it."""
    from engine.data import caption_edits as edits
    from engine.data.captions import meaning

    if not pick_dataset(context, name):
        return note("No dataset yet: read a folder of yours above.")
    state = edits.empty(open_dataset(context, name))
    try:
        dropout = context.config_of(context.draft)[0].objective.prompt_dropout
    except UserError:
        dropout = None  # the form on the Train tab says what is wrong
    words = note(meaning(state.share), "warning" if state.share > 0.5 else "hint")
    if dropout is not None and state.total:
        hidden = dropout + (1 - dropout) * state.share
        words += note(
            f"With prompt dropout at {dropout:.0%}, {hidden:.0%} of the steps of the next run have no prompt."
        )
    head = f"<b>{counted(state.total, 'caption', 'captions')}</b>, {state.empty:,} empty"
    return f"<p class='facts'>{head}</p>{words}"


def history(context: AppContext, name: str | None) -> tuple[str, bool]:
    """The operations, newest first, and whether there is one to undo."""
    if not pick_dataset(context, name):
        return "", False
    entries = open_dataset(context, name).captions.history()
    if not entries:
        return note("Nothing was changed yet. The last 50 operations can be undone, also after a restart."), False
    rows = "".join(
        f"<li>{escape(entry.what)} <span class='hint'>{counted(entry.changed, 'caption', 'captions')}"
        f"{', unfinished: start it again to go on' if entry.unfinished else ''}</span></li>"
        for entry in entries
    )
    return f"<ol class='history'>{rows}</ol>", True


def result(told: str, examples: tuple[tuple[str, str], ...]) -> str:
    """What the last operation told, as HTML."""
    rows = "".join(
        f"<tr><td><del>{escape(before) or '<i>(empty)</i>'}</del></td><td>{escape(after) or '<i>(empty)</i>'}</td></tr>"
        for before, after in examples
    )
    return note(told, "good") + (f"<table class='before-after'>{rows}</table>" if rows else "")
