"""Drop-down lists of datasets, runs and checkpoints that every tab uses, kept up to date while the app runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from engine.errors import UserError
from engine.machine.units import counted
from engine.runs.checkpoints import Checkpoint, broken_checkpoints, list_checkpoints
from engine.runs.choice import left_out
from engine.runs.run import Run
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.places import go_button
from ui.page.view import View

if TYPE_CHECKING:
    from engine.data.dataset import Dataset

NEWEST = -1
NEWEST_ENTRY = ("the newest", NEWEST)


def dataset_list(live: Live, label: str, elem_id: str, hint: str | None = None) -> Any:
    """Build a list of the workspace's datasets. It moves to one that was just made."""
    box = gr.Dropdown([], value=None, label=label, elem_id=elem_id, info=hint, interactive=True)

    def render(view: View) -> list[Any]:
        chosen = view.focus_dataset if view.focus_dataset in view.datasets else None
        chosen = chosen or (view.datasets[0] if view.datasets else None)
        return [gr.Dropdown(list(view.datasets), value=chosen)]

    live.outputs([box], lambda view: (view.datasets, view.focus_dataset), render)
    return box


def pick_dataset(context: AppContext, name: str | None) -> str:
    """Return the dataset that a list names, the one in focus while the page still loads, or an empty string."""
    known = context.files()[0]
    return next((one for one in (name, context.focus_dataset, *known) if one and one in known), "")


def open_dataset(context: AppContext, name: str | None) -> Dataset:
    """Open the dataset of ``pick_dataset``. Raises UserError if there is none."""
    from engine.data.dataset import Dataset

    found = pick_dataset(context, name)
    if not found:
        raise UserError("No dataset is selected.", "The list is empty.", "Read a folder of images first.")
    return Dataset.open(context.workspace.dataset_folder(found))


def run_list(live: Live, label: str, elem_id: str) -> Any:
    """Build a list of runs, newest first. It moves to the run that was trained last."""
    box = gr.Dropdown([], value=None, label=label, elem_id=elem_id, interactive=True)

    def render(view: View) -> list[Any]:
        return [gr.Dropdown(list(view.runs), value=shown_run(view))]

    live.outputs([box], lambda view: (view.runs, view.shown_run), render)
    return box


def no_run_yet(what: str) -> str:
    """Return HTML for a tab that works on runs while there are none, with a button that goes where one is made.

    Args:
        what: what will be shown there, as a sentence.
    """
    way = "There is no run yet: train one first, or import a ControlNet on the Export tab."
    return f"{note(way)}{note(what)}{go_button('Go to Train', ['tab-train'], css='go next')}"


def shown_run(view: View) -> str | None:
    """Return the run that lists of runs show: the one on the Train tab, else the newest, else None."""
    return view.shown_run if view.shown_run in view.runs else next(iter(view.runs), None)


def run_of(context: AppContext, name: str | None) -> Run | None:
    """Open a run by name. None if it does not exist or cannot be read."""
    if not name or name not in context.files()[1]:
        return None
    try:
        return Run(context.workspace.runs / name)
    except UserError:
        return None


def checkpoints_of(context: AppContext, run: str | None) -> list[Checkpoint]:
    """Return the complete checkpoints of a run, newest first. An empty list if no run is selected.

    This reads the folder rather than the pages' list of runs, which may be two seconds old.
    """
    if not run or run not in {folder.name for folder in context.workspace.run_folders()}:
        return []
    return list_checkpoints(context.workspace.runs / run)[::-1]


def checkpoint_list(context: AppContext, live: Live, run_box: Any, elem_id: str) -> Any:
    """Build a list of the selected run's checkpoints, newest first, kept up to date while it trains.

    The first entry is always there and stands for the newest checkpoint. So the list always has a value, whatever order
    a slow page gets its updates in, and a checkpoint that the user picked stays picked when another is saved.
    """
    box = gr.Dropdown([NEWEST_ENTRY], value=NEWEST, label="Checkpoint", elem_id=elem_id, interactive=True)

    def entries(run: str | None) -> list[tuple[str, int]]:
        found = checkpoints_of(context, run)
        return [NEWEST_ENTRY, *((f"step {c.step:,} · {counted(c.images_seen, 'image')} seen", c.step) for c in found)]

    def list_run(run: str | None) -> Any:
        return gr.Dropdown(entries(run), value=NEWEST)

    def list_again(run: str | None) -> Any:
        return gr.Dropdown(entries(run))

    saved = gr.State("")
    live.on(run_box.change, list_run, [run_box], [box])
    live.on(saved.change, list_again, [run_box], [box])
    live.outputs([saved], _saved, lambda view: [repr(_saved(view))])
    return box


def _saved(view: View) -> tuple[Any, ...]:
    return view.runs, view.shown_run, view.history.checkpoint


def left_out_of(context: AppContext, run: str | None, step: int | None, picked: Checkpoint) -> list[str]:
    """Return sentences on newer checkpoints that are damaged, if ``picked`` was picked as the newest."""
    return left_out(context.workspace.runs / str(run), picked) if step in (NEWEST, None) else []


def pick_checkpoint(context: AppContext, run: str | None, step: int | None) -> Checkpoint:
    """Return the selected checkpoint. ``NEWEST`` and None stand for the newest.

    Raises:
        UserError: there is no checkpoint yet, or the selected one is gone.
    """
    found = checkpoints_of(context, run)
    if step in (NEWEST, None) and found:
        return found[0]
    for checkpoint in found:
        if checkpoint.step == step:
            return checkpoint
    which = "yet" if step in (NEWEST, None) else f"at step {step:,}"
    damaged = " ".join(broken_checkpoints(context.workspace.runs / run)) if run and not found else ""
    raise UserError(
        "There is no such checkpoint.",
        f"The run {run} has no complete checkpoint {which}. {damaged}".strip() if run else "No run is selected.",
        "Select a run and a checkpoint. A run gets its first checkpoint when it first saves.",
    )
