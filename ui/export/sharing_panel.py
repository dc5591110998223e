"""Before a net is shared: questions about its training data, and what can be measured, for its model card."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.export.sharing import (
    LONGEST,
    QUESTIONS,
    README,
    Sharing,
    checkpoint_of,
    found_out,
    left_open,
    read_sharing,
    save_answers,
    save_check,
)
from engine.export.writing import CARD_ENDING
from engine.jobs.control import Token
from engine.jobs.runner import Emit, Work, progress_events
from engine.jobs.snapshot import Outcome
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from ui.export.export_jobs import KIND
from ui.page.choices import pick_checkpoint, shown_run
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import View

RESULT = "sharing"


def build(context: AppContext, live: Live, run: Any, checkpoint: Any) -> Any:
    """Build the panel for the run and the checkpoint that are selected. Returns the button that starts a job."""
    with gr.Accordion("Before you share it", open=False, elem_id="sharing"):
        gr.HTML(
            note(
                "People who use your model will ask this. The answers are kept with the run and written into the model "
                "card of each of its exports. A question without an answer is marked there as not answered."
            )
        )
        boxes = [
            gr.Textbox(label=one.title, info=one.info, lines=2, max_length=LONGEST, elem_id=f"sharing-{one.name}")
            for one in QUESTIONS
        ]
        save = gr.Button("Save the answers", elem_id="sharing-save")
        saved = gr.HTML(elem_id="sharing-saved")
        gr.HTML(
            note(
                "The check compares drawn images with the training images, and counts the words of the captions. The "
                "model card gets the numbers and the most common words, but no image and no caption."
            )
        )
        check = gr.Button("Check the training data", elem_id="sharing-check")
        found = gr.HTML(elem_id="sharing-found")

    def show(run: str | None, step: int | None) -> list[str]:
        sharing = read_sharing(context.workspace.runs / run) if run else Sharing()
        return [*(sharing.answers.get(one.name, "") for one in QUESTIONS), "", _measured(context, run, step)]

    def save_them(run: str | None, *texts: str) -> str:
        folder = _folder_of(context, run)
        sharing = save_answers(folder, {one.name: text or "" for one, text in zip(QUESTIONS, texts, strict=True)})
        unanswered = [one.title for one in QUESTIONS if not sharing.answers.get(one.name, "").strip()]
        return note("Saved." + (f" Not answered: {'; '.join(unanswered)}." if unanswered else ""), "good")

    def start(run: str | None, step: int | None) -> None:
        _folder_of(context, run)
        job = data_check_job(context, str(run), pick_checkpoint(context, run, step))
        context.start_job(KIND, "Checking the training data", job)

    live.on(run.change, show, [run, checkpoint], [*boxes, saved, found])
    live.on(checkpoint.change, lambda run, step: _measured(context, run, step), [run, checkpoint], [found])
    live.on(save.click, save_them, [run, *boxes], [saved])
    live.on(check.click, start, [run, checkpoint])
    live.outputs(
        [found],
        lambda view: (view.results.get(RESULT), view.shown_run),
        lambda view: [_result(context, view)],
    )
    return check


def data_check_job(context: AppContext, run_name: str, checkpoint: Checkpoint) -> Work:
    """Return the job that measures what a model card says about the training data."""
    context.clear_result(RESULT)

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.export.data_check import check_data

        run = Run(context.workspace.runs / run_name)
        progress = progress_events(emit, "Training images compared")
        check = check_data(context.workspace, run, checkpoint, token, progress)
        save_check(run.folder, checkpoint.folder.name, check)
        context.set_result(RESULT, note="The training data is checked.", where=str(run.folder / checkpoint.folder.name))
        return "completed"

    return work


def card_note(file: str | None) -> str:
    """What the model card of an exported file does not say, before it is uploaded."""
    if not file:
        return ""
    path = Path(file)
    readme = (path if path.is_dir() else path.with_name(path.stem + CARD_ENDING)) / README
    try:
        card = readme.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return note("It has no model card.", "warning")
    still_open = left_open(read_sharing(path.parent.parent), checkpoint_of(card))
    if not still_open:
        return note("Its model card answers all questions about its training data.", "good")
    return note(f"Its model card does not say: {'; '.join(still_open)}. See “Before you share it”.", "warning")


def _folder_of(context: AppContext, run: str | None) -> Path:
    if not run:
        raise UserError("Nothing was saved.", "No run is selected.", "Select a run.")
    return context.workspace.runs / run


def _measured(context: AppContext, run: str | None, step: int | None) -> str:
    """What the last check found out about the selected checkpoint; empty: it was not checked."""
    if not run:
        return ""
    try:
        chosen = pick_checkpoint(context, run, step)
    except UserError:
        return ""  # there is no checkpoint yet
    return found_html(read_sharing(context.workspace.runs / run), chosen.folder.name)


def _result(context: AppContext, view: View) -> str:
    result = view.results.get(RESULT)
    if result is None or Path(result.where).parent.name != shown_run(view):
        return _measured(context, shown_run(view), None)
    return found_html(read_sharing(Path(result.where).parent), Path(result.where).name)


def found_html(sharing: Sharing, checkpoint: str) -> str:
    """What was measured for a checkpoint, with the training images to look at; empty: it was not measured."""
    check = sharing.checks.get(checkpoint)
    if check is None:
        return ""
    rows = "".join(
        f"<tr><th>{escape(title)}</th><td>{escape(text[:1].upper() + text[1:])}</td></tr>"
        for title, text in found_out(sharing, checkpoint)
    )
    pairs = ", ".join(f"image {one.image + 1} and {one.key}" for one in check.copies)
    look = note(f"Look at these yourself (not in the card): {pairs}.", "warning") if pairs else ""
    return f"<table class='facts'>{rows}</table>{look}"
