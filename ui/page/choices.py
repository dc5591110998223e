"""Lists that grow while the app runs: datasets, runs and checkpoints, kept up to date on every tab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from engine.errors import UserError
from engine.runs.checkpoints import Checkpoint, list_checkpoints
from engine.runs.run import Run
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.view import View

if TYPE_CHECKING:
    from engine.data.dataset import Dataset

NEWEST = -1
NEWEST_ENTRY = ("the newest", NEWEST)


def dataset_list(live: Live, label: str, elem_id: str, hint: str | None = None) -> Any:
    """A list of the workspace's datasets; it moves to one that was just made."""
    box = gr.Dropdown([], value=None, label=label, elem_id=elem_id, info=hint, interactive=True)

    def render(view: View) -> list[Any]:
        chosen = view.focus_dataset if view.focus_dataset in view.datasets else None
        chosen = chosen or (view.datasets[0] if view.datasets else None)
        return [gr.Dropdown(list(view.datasets), value=chosen)]

    live.outputs([box], lambda view: (view.datasets, view.focus_dataset), render)
    return box


def pick_dataset(context: AppContext, name: str | None) -> str:
    """The dataset that a page's list names; the one in focus while the page still loads; empty where there is none."""
    known = context.files()[0]
    return next((one for one in (name, context.focus_dataset, *known) if one and one in known), "")


def open_dataset(context: AppContext, name: str | None) -> Dataset:
    """The dataset of ``pick_dataset``. Raises UserError where there is none."""
    from engine.data.dataset import Dataset

    found = pick_dataset(context, name)
    if not found:
        raise UserError("No dataset is chosen.", "The list is empty.", "Read a folder of images first.")
    return Dataset.open(context.workspace.dataset_folder(found))


def run_list(live: Live, label: str, elem_id: str) -> Any:
    """A list of runs, newest first; it moves to the run that was trained last."""
    box = gr.Dropdown([], value=None, label=label, elem_id=elem_id, interactive=True)

    def render(view: View) -> list[Any]:
        chosen = view.shown_run if view.shown_run in view.runs else None
        return [gr.Dropdown(list(view.runs), value=chosen or (view.runs[0] if view.runs else None))]

    live.outputs([box], lambda view: (view.runs, view.shown_run), render)
    return box


def run_of(context: AppContext, name: str | None) -> Run | None:
    """The run of that name, or None where there is none that can be read."""
    if not name or name not in context.files()[1]:
        return None
    try:
        return Run(context.workspace.runs / name)
    except UserError:
        return None


def checkpoints_of(context: AppContext, run: str | None) -> list[Checkpoint]:
    """Whole checkpoints of a run by folder name, newest first; none for no run.

    The folder is asked, not the pages' list of runs, which may be two seconds old.
    """
    if not run or run not in {folder.name for folder in context.workspace.run_folders()}:
        return []
    return list_checkpoints(context.workspace.runs / run)[::-1]


def checkpoint_list(context: AppContext, live: Live, run_box: Any, elem_id: str) -> Any:
    """A list of the chosen run's checkpoints, newest first, kept up to date while it trains.

    Its first entry is always there and stands for the newest: whatever order a slow page gets its updates in, the list
    is never without a choice, and what the user picked stays picked when another checkpoint is saved.
    """
    box = gr.Dropdown([NEWEST_ENTRY], value=NEWEST, label="Checkpoint", elem_id=elem_id, interactive=True)

    def entries(run: str | None) -> list[tuple[str, int]]:
        found = checkpoints_of(context, run)
        return [NEWEST_ENTRY, *((f"step {c.step:,} · {c.images_seen:,} images seen", c.step) for c in found)]

    def of_run(run: str | None) -> Any:
        return gr.Dropdown(entries(run), value=NEWEST)

    def refreshed(run: str | None) -> Any:
        return gr.Dropdown(entries(run))

    saved = gr.State("")
    run_box.change(of_run, [run_box], [box], **NO_PROGRESS)
    saved.change(refreshed, [run_box], [box], **NO_PROGRESS)
    live.outputs([saved], _saved, lambda view: [repr(_saved(view))])
    return box


def _saved(view: View) -> tuple[Any, ...]:
    return view.runs, view.shown_run, view.history.checkpoint


def pick_checkpoint(context: AppContext, run: str | None, step: int | None) -> Checkpoint:
    """The chosen checkpoint; the newest for ``NEWEST`` or none.

    Raises:
        UserError: there is none yet, or the chosen one is gone.
    """
    found = checkpoints_of(context, run)
    if step in (NEWEST, None) and found:
        return found[0]
    for checkpoint in found:
        if checkpoint.step == step:
            return checkpoint
    which = "yet" if step in (NEWEST, None) else f"at step {step:,}"
    raise UserError(
        "There is no such checkpoint.",
        f"The run {run} has no whole checkpoint {which}." if run else "No run is chosen.",
        "Choose a run and a checkpoint from the lists; a run has one after its first save.",
    )
