"""Controls and progress of jobs, and the demo set with its settings, which two parts of the page offer.

The engine is imported inside the jobs, so that the window opens quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from engine.config.presets import flatten, resolve, unflatten
from engine.demo.sets import demo_preset
from engine.families.files import family_of
from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, JobRunner, Work, progress_events
from engine.jobs.snapshot import JobSnapshot, Outcome
from engine.machine.units import counted
from engine.workspace.paths import bundled_bases
from ui.page.context import AppContext
from ui.page.listing import is_demo_set
from ui.page.live import Live
from ui.page.messages import job_progress, note
from ui.page.states import ADD_TO_QUEUE
from ui.page.view import Draft, View

DEMO = demo_preset().name
DEMO_STEPS = int(demo_preset().values["train"]["steps"])
"""On the first of the bundled bases."""
DEMO_BASES = (("UNet (as SD 1.5)", "demo"), ("Transformer (as SD 3)", "demo-transformer"))
"""Titles and names of the bases that come with the app."""


def queue_button(live: Live, start: Any, text: str = ADD_TO_QUEUE) -> Any:
    """Build the button "Add to queue" beside one that starts a job, whose place it takes while any job runs.

    Wire both to the same handler, which passes ``queued`` to ``context.start_job``.
    """
    add = gr.Button(
        text,
        variant=start.variant,
        size=start.size,
        scale=start.scale,
        min_width=start.min_width,
        visible=False,
        elem_id=f"{start.elem_id}-queue",
    )
    live.outputs(
        [start, add],
        lambda view: view.snapshot.alive,
        lambda view: [gr.Button(visible=not view.snapshot.alive), gr.Button(visible=view.snapshot.alive)],
    )
    return add


def job_controls(
    live: Live,
    kind: str,
    buttons: Sequence[Any],
    cancel: Any,
    progress: Any,
    busy_hint: str = "",
    side: JobRunner | None = None,
) -> None:
    """Wire the controls of a tab's jobs.

    Args:
        kind: of the jobs.
        buttons: they start jobs that cannot be queued, and are disabled while any job is running. The button of
            a job that can be queued has ``queue_button`` beside it, or stays as it is.
        cancel: visible while one of these jobs is running. progress: an HTML component that shows how far it is.
        busy_hint: what to do while a job of another tab is running; shown with that job's title.
        side: runs such jobs beside the window's, too.
    """

    def job_of(view: View) -> JobSnapshot:
        return side.snapshot if side is not None and side.snapshot.alive else view.snapshot

    def key(view: View) -> Any:
        job = job_of(view)
        return job if job.kind == kind else (job.alive, job.title)

    def render(view: View) -> list[Any]:
        job = job_of(view)
        own = job.alive and job.kind == kind
        text = job_progress(job) if own else ""
        if busy_hint and job.alive and not own:
            text = note(f"“{job.title}” is running: {busy_hint}")
        return [*(gr.Button(interactive=not job.alive) for _ in buttons), gr.Button(visible=own), text]

    def end() -> None:
        if side is not None and side.alive:
            side.cancel()
        elif live.context.runner.snapshot.kind == kind:  # else it has just ended, and another job runs
            live.context.runner.cancel()

    live.on(cancel.click, end)
    live.outputs([*buttons, cancel, progress], key, render)


def demo_set_job(context: AppContext, kind: str, count: int) -> Work:
    """Return the job that draws a demo set and selects it on every tab."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.demo.sets import make_demo_set

        dataset = make_demo_set(context.workspace, kind, count, progress_events(emit, "Images drawn and read"), token)
        emit(Message(f"The demo set {dataset.name} is ready: {counted(dataset.count(), 'pair')} of image and map."))
        context.focus_on(dataset.name)
        return "completed"

    return work


def demo_steps(context: AppContext, base: str) -> int:
    """Return the demo's training steps on a base."""
    layers = demo_preset().layers(family_of(context.workspace, base))
    return resolve(*layers)[0].train.steps


def choose_demo(context: AppContext, steps: int, base: str = DEMO) -> None:
    """Put the demo's settings into the form, with ``steps`` steps. Changes to the demo's own form stay.

    Args:
        base: name of a base that comes with the app.
    """
    draft, datasets = context.draft, context.files()[0]
    on_demo = (draft.preset or context.suggested_preset) == DEMO
    changes = flatten(draft.changes) if on_demo else {}
    changes.pop("train.steps", None)  # the card's own number counts
    chosen = str(flatten(draft.changes).get("data.dataset", ""))
    if base != DEMO or changes.get("model.base") in bundled_bases():
        changes["model.base"] = base
    changes["data.dataset"] = chosen if is_demo_set(chosen) else next(filter(is_demo_set, datasets), "")
    if steps != demo_steps(context, base):
        changes["train.steps"] = steps
        if steps <= int(demo_preset().values["optim"].get("warmup_steps", 0)):
            changes["optim.warmup_steps"] = 0  # a warm-up as long as the run is refused
    context.draft = Draft(DEMO, unflatten(changes), draft.number + 1)
