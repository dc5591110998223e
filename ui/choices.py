"""Lists that grow while the app runs: datasets, runs and checkpoints, kept up to date on every tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.training.checkpoint_files import Checkpoint, list_checkpoints
from ui.context import AppContext
from ui.live import Live
from ui.view import View

NEW_RUN = "new run"


def dataset_list(live: Live, label: str, elem_id: str, hint: str | None = None) -> Any:
    """A list of the workspace's datasets; it moves to one that was just made."""
    box = gr.Dropdown([], value=None, label=label, elem_id=elem_id, info=hint, interactive=True)

    def render(view: View) -> list[Any]:
        chosen = view.focus_dataset if view.focus_dataset in view.datasets else None
        chosen = chosen or (view.datasets[0] if view.datasets else None)
        return [gr.Dropdown(list(view.datasets), value=chosen)]

    live.part([box], lambda view: (view.datasets, view.focus_dataset), render)
    return box


def run_list(live: Live, label: str, elem_id: str) -> Any:
    """A list of runs, newest first; it moves to the run that was trained last."""
    box = gr.Dropdown([], value=None, label=label, elem_id=elem_id, interactive=True)

    def render(view: View) -> list[Any]:
        chosen = view.shown_run if view.shown_run in view.runs else None
        return [gr.Dropdown(list(view.runs), value=chosen or (view.runs[0] if view.runs else None))]

    live.part([box], lambda view: (view.runs, view.shown_run), render)
    return box


def checkpoints_of(context: AppContext, run: str | None) -> list[Checkpoint]:
    """Whole checkpoints of a run by folder name, newest first; none for no run."""
    return list_checkpoints(context.workspace.runs / run)[::-1] if run in context.files()[1] else []


def checkpoint_list(context: AppContext, live: Live, run_box: Any, elem_id: str) -> Any:
    """A list of the chosen run's checkpoints, newest first, kept up to date while it trains."""
    box = gr.Dropdown([], value=None, label="Checkpoint", elem_id=elem_id, interactive=True)

    def choices(run: str | None) -> Any:
        found = checkpoints_of(context, run)
        entries = [(f"step {c.step:,} · {c.images_seen:,} pictures seen", c.step) for c in found]
        return gr.Dropdown(entries, value=found[0].step if found else None)

    run_box.change(choices, [run_box], [box], show_progress="hidden", api_visibility="private")

    def render(view: View) -> list[Any]:
        return [choices(view.shown_run or (view.runs[0] if view.runs else None))]

    live.part([box], lambda view: (view.runs, view.shown_run, view.history.checkpoint), render)
    return box


def pick_checkpoint(context: AppContext, run: str | None, step: int | None) -> Checkpoint:
    """The chosen checkpoint.

    Raises:
        UserError: nothing is chosen, or it is gone.
    """
    from engine.errors import UserError

    for checkpoint in checkpoints_of(context, run):
        if checkpoint.step == step:
            return checkpoint
    raise UserError(
        "There is no such checkpoint.",
        f"The run {run} has no whole checkpoint at step {step}." if run else "No run is chosen.",
        "Choose a run and a checkpoint from the lists; a run has one after its first save.",
    )
