"""After a ControlNet run: does it obey on its base with a LoRA in it?"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.evaluation.transfer_report import JSON, transfer_folder, transfer_text
from engine.jobs.control import Token
from engine.jobs.runner import Emit, Work, progress_events
from engine.jobs.snapshot import JobKind, Outcome
from engine.queue.tuned_base_jobs import MeasureTransfer
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.tuning.facts import facts_of
from ui.page.choices import NEWEST, pick_checkpoint
from ui.page.context import AppContext
from ui.page.enlarge import gallery
from ui.page.jobs import job_controls, queue_button
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import View

KIND = JobKind.EVALUATE
HELP = (
    "Draws eight held-out pairs on the run's base, and on it with these files, from the same seeds. Reports the "
    "adherence of both. From left to right: control image, own base, base with the files."
)
FILES_HINT = "One per line: a path, or a file name from the workspace's models/loras or models/embeddings folder."


def build_transfer(context: AppContext, live: Live) -> None:
    """Build the folded form; hidden for runs without a ControlNet."""
    with gr.Accordion("Does it obey on a LoRA?", open=False, visible=False, elem_id="transfer-box") as box:
        gr.HTML(note(HELP))
        files = gr.Textbox(label="LoRA and embedding files", info=FILES_HINT, lines=2, elem_id="transfer-files")
        with gr.Row(elem_classes="buttons"):
            start = gr.Button("Does it obey on this LoRA?", elem_id="transfer-start", min_width=240)
            add = queue_button(live, start)
            cancel = gr.Button("Cancel", visible=False, elem_id="transfer-cancel", min_width=120)
        progress = gr.HTML(elem_id="transfer-progress")
        words = gr.HTML(elem_id="transfer-words")
        rows = gallery("transfer-rows", columns=1)

    def measure(ingredients: str) -> None:
        name = context.view().shown_run
        chosen = pick_checkpoint(context, name, NEWEST)
        if not context.must_queue:  # else the models are another job's, and this one is refused
            context.free_models()
        job, queued = transfer_job(context, name, chosen, ingredients), MeasureTransfer(run=name, files=ingredients)
        context.start_job(KIND, f"Drawing {name} on a LoRA", job, queued)

    live.on([start.click, add.click], measure, [files])
    job_controls(live, KIND, [], cancel, progress)
    live.outputs([box], lambda view: (view.shown_run, view.history.kept), lambda view: [_box(context, view)])
    live.outputs([words, rows], lambda view: (view.shown_run, view.results.get(KIND)), lambda view: show(context, view))


def transfer_job(context: AppContext, name: str, checkpoint: Checkpoint, ingredients: str) -> Work:
    """Return the job that draws and measures."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.evaluation.transfer_job import measure_transfer

        run = Run(context.workspace.run_folder(name))
        progress = progress_events(emit, "Drawing, steps")
        found = measure_transfer(context.workspace, run, checkpoint, ingredients, token, progress)
        context.set_result(KIND, note=transfer_text(found), where=str(transfer_folder(run.folder, checkpoint.step)))
        return "completed"

    return work


def _box(context: AppContext, view: View) -> Any:
    try:
        run = Run(context.workspace.runs / view.shown_run) if view.shown_run and view.history.kept else None
    except UserError:
        run = None  # a damaged run; the tab says what is wrong
    return gr.Accordion(visible=run is not None and facts_of(run.config).learned.control)


def show(context: AppContext, view: View) -> list[Any]:
    """Render the newest result of the shown run."""
    found = sorted((context.workspace.runs / view.shown_run / "evaluation").glob(f"transfer-*/{JSON}"))
    if not view.shown_run or not found:
        return ["", gr.Gallery([], visible=False)]
    newest = max(found, key=lambda path: path.stat().st_mtime)
    try:
        about = json.loads(newest.read_text(encoding="utf-8"))
        text = f"Step {about['step']:,}: {transfer_text(about)}"
        shown = [(str(newest.parent / name), str(caption)) for name, caption in about["rows"]]
    except (OSError, ValueError, KeyError):
        return ["", gr.Gallery([], visible=False)]  # damaged, or of another version
    shown = [(path, caption) for path, caption in shown if Path(path).is_file()]
    return [f"<p>{escape(text)}</p>", gr.Gallery(shown, visible=bool(shown))]
