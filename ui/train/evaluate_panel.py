"""Evaluate a checkpoint on the Train tab: the full evaluation, or the control-effect meter alone.

It is hidden while a run has no checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.evaluation import report
from engine.evaluation.run_verdict import verdict_of
from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work, progress_events
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.units import counted
from engine.queue.net_jobs import MeasureEffect
from engine.queue.run_jobs import Evaluate
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from ui.page.choices import NEWEST, NEWEST_ENTRY, left_out_of, pick_checkpoint
from ui.page.context import AppContext
from ui.page.enlarge import gallery
from ui.page.jobs import job_controls, queue_button
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import View

KIND = JobKind.EVALUATE
HELP = (
    "Generates images for 64 pairs with and without control, with other seeds and with wrong control images. Reports "
    "whether the checkpoint follows its control images, whether it is damaged, and whether it has memorized training "
    "images. Takes minutes on a graphics card."
)


def build_evaluate(context: AppContext, live: Live) -> None:
    """Build the folded form, and the report below it."""
    with gr.Accordion("Evaluate a checkpoint", open=False, visible=False, elem_id="evaluate-box") as box:
        gr.HTML(note(HELP))
        with gr.Row(elem_classes="buttons"):
            checkpoint = gr.Dropdown([NEWEST_ENTRY], value=NEWEST, label="Checkpoint", elem_id="evaluate-checkpoint")
            pairs = gr.Number(64, label="Pairs", precision=0, minimum=2, maximum=512, elem_id="evaluate-pairs")
        with gr.Row(elem_classes="buttons"):
            start = gr.Button("Evaluate this checkpoint", elem_id="evaluate-start", min_width=200)
            add = queue_button(live, start, "Add the evaluation to the queue")
            only = gr.Button("Control-effect meter only", elem_id="evaluate-effect-only", min_width=200)
            add_only = queue_button(live, only, "Add the meter to the queue")
            cancel = gr.Button("Cancel", visible=False, elem_id="evaluate-cancel", min_width=120)
        progress = gr.HTML(elem_id="evaluate-progress")
        found = gr.HTML(elem_id="evaluate-report")
        effect = gr.HTML(elem_id="evaluate-effect-words")
        meter = gallery("evaluate-effect", columns=1)

    def evaluate(step: int | None, count: float) -> None:
        name = context.view().shown_run
        chosen, pairs = pick_checkpoint(context, name, step), int(count or 64)
        queued = Evaluate(run=name, checkpoint="newest" if step in (NEWEST, None) else chosen.step, pairs=pairs)
        if not context.must_queue:
            context.free_models()
        context.start_job(
            KIND,
            f"Evaluating step {chosen.step:,}",
            evaluation_job(context, name, chosen, pairs, left_out_of(context, name, step, chosen)),
            queued,
        )

    def measure_effect(step: int | None) -> None:
        name = context.view().shown_run
        chosen = pick_checkpoint(context, name, step)
        queued = MeasureEffect(run=name, checkpoint="newest" if step in (NEWEST, None) else chosen.step)
        if not context.must_queue:
            context.free_models()
        title = f"Measuring the control effect of step {chosen.step:,}"
        context.start_job(
            KIND, title, control_effect_job(context, name, chosen, left_out_of(context, name, step, chosen)), queued
        )

    live.on([start.click, add.click], evaluate, [checkpoint, pairs])
    live.on([only.click, add_only.click], measure_effect, [checkpoint])
    job_controls(live, KIND, [], cancel, progress)
    live.outputs([box, checkpoint], lambda view: (view.shown_run, view.history.kept), _choices)
    live.outputs(
        [found, effect, meter],
        lambda view: (view.shown_run, view.results.get(KIND)),
        lambda view: _report(context, view),
    )


def evaluation_job(
    context: AppContext, run_name: str, checkpoint: Checkpoint, pairs: int, notes: Sequence[str] = ()
) -> Work:
    """Return the job that evaluates a checkpoint and shows the report. ``notes``: about its choice, for the log."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.evaluation.evaluate import evaluate, report_folder

        for sentence in notes:
            emit(Message(sentence, "warning"))
        run = Run(context.workspace.runs / run_name)
        found = evaluate(context.workspace, run, checkpoint, pairs, token=token, progress=progress_events(emit))
        context.set_result(KIND, note=report.headline(found), where=str(report_folder(run, checkpoint.step)))
        return "completed"

    return work


def control_effect_job(context: AppContext, run_name: str, checkpoint: Checkpoint, notes: Sequence[str] = ()) -> Work:
    """Return the job that measures only the control effect. ``notes``: about its choice, for the log."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.evaluation.effect_job import effect_folder, measure_effect

        for sentence in notes:
            emit(Message(sentence, "warning"))
        run = Run(context.workspace.runs / run_name)
        found = measure_effect(context.workspace, run, checkpoint, token, progress_events(emit))
        where = str(effect_folder(run.folder, checkpoint.step))
        context.set_result(KIND, note=f"Control effect {report.effect_text(found)}.", where=where)
        return "completed"

    return work


def _choices(view: View) -> list[Any]:
    """Render the list of checkpoints, with the best one marked. Hidden while a run has no checkpoint."""
    history = view.history
    verdict = verdict_of(history)
    best = verdict.best if verdict else None
    entries = [(f"step {step:,}{' (the best)' if step == best else ''}", step) for step in reversed(history.kept)]
    chosen = best if best in history.kept else NEWEST
    return [
        gr.Accordion(visible=bool(view.shown_run and history.kept)),
        gr.Dropdown([NEWEST_ENTRY, *entries], value=chosen),
    ]


def _report(context: AppContext, view: View) -> list[Any]:
    """Render the newest report of the shown run, and the newest control effect with its images."""
    folder = context.workspace.runs / view.shown_run / "evaluation"
    if not view.shown_run or not folder.is_dir():
        return ["", "", gr.Gallery([], visible=False)]
    known = sorted(report.reports(folder), key=lambda r: _made(folder, r))
    html = report_html(known[-1], folder / f"full-{known[-1]['step']:06d}") if known else ""
    meter = _newest_meter(folder)
    if meter is None:
        return [html, "", gr.Gallery([], visible=False)]
    place, found = meter
    images = [(str(place / name), caption) for name, caption in found["effect_pictures"][:4]]
    shown = [(path, caption) for path, caption in images if Path(path).is_file()]
    return [html, meter_html(found), gr.Gallery(shown, visible=bool(shown))]


def _newest_meter(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return folder and values of the newest control effect, measured alone or in a full evaluation."""
    paths = [*folder.glob(f"full-*/{report.JSON}"), *folder.glob("effect-*/effect.json")]
    for path in sorted(paths, key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            found = about.get("control_effect", about)
            return path.parent, {**found, "step": about["step"], "effect_pictures": about["effect_pictures"]}
        except (OSError, ValueError, KeyError):
            continue  # written by another version, or damaged
    return None


def meter_html(found: dict[str, Any]) -> str:
    """The control-effect meter of one checkpoint as HTML. ``found``: the measurement, with step and pairs."""
    text = f"Step {found['step']:,}, {counted(found['pairs'], 'pair')}: {report.effect_text(found)}."
    legend = (
        "All with the same seed. From left to right: control image, image generated with it, with a blank one, with "
        "another one, and that other control image."
    )
    return f"<h3>Control-effect meter</h3><p>{escape(text)}</p>{note(legend)}"


def _made(folder: Path, found: dict[str, Any]) -> float:
    return (folder / f"full-{found['step']:06d}" / report.JSON).stat().st_mtime


def report_html(found: dict[str, Any], place: Path) -> str:
    """Return the report as HTML: the headline, warnings, and a table."""
    warnings = "".join(note(text, "warning") for text in report.warnings(found))
    rows = report.facts(found)
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return (
        f"<p class='sentence'><b>{escape(report.headline(found))}</b></p>{warnings}<table class='facts'>{cells}</table>"
        f"{note(f'The full report with images: {place / report.HTML}')}"
    )
