"""What the base's VAE leaves of control images, beside "As the net will see them", for bases whose nets read latents.

It is found by the automatic dataset check (ui/page/auto_check.py), which this starts when such a base is chosen.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.config import DataConfig
from engine.data.dataset import Dataset
from engine.data.doctor.lost_lines import place_of, thicker_lines
from engine.data.lines_kept import LOST
from engine.errors import UserError
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note, progress_bar
from ui.page.view import View

DECODED = (
    "As cropped for training: the control image, what the base's VAE leaves of it (this is what the net reads), and "
    "the image."
)


def build_progress(context: AppContext, live: Live) -> None:
    """Build the progress of the look through the VAE, and the button that cancels it."""
    with gr.Row(visible=False, elem_classes="beside") as row:
        words = gr.HTML(elem_id="pairs-progress")
        cancel = gr.Button("Cancel", size="sm", scale=0, min_width=96, elem_id="pairs-cancel")
    live.on(cancel.click, context.auto_check.cancel)
    live.outputs(
        [row, words],
        lambda view: (_waits(context, view), view.snapshot.alive),
        lambda view: [gr.Row(visible=_waits(context, view) is not None), _progress(context, view)],
    )


def _waits(context: AppContext, view: View) -> Any:
    """The state of the check, while it looks through the VAE for the next run; else None."""
    check = view.auto_check
    return check if check.alive and check.dataset == context.seen_through_vae else None


def _progress(context: AppContext, view: View) -> str:
    check = _waits(context, view)
    if check is None:
        return ""
    if view.snapshot.alive:
        return note(f"What the VAE leaves of the control images is shown when “{view.snapshot.title}” has ended.")
    if not check.total:
        return note("The base's VAE is being loaded …")
    return progress_bar(check.done, check.total, "Control images through the base's VAE")


def lines_text(workspace: Workspace, data: DataConfig, base: str) -> str:
    """Return what was measured, as HTML; nothing where nothing was, or the base's nets read pixels.

    Raises:
        UserError: the dataset cannot be read.
    """
    from engine.data.crop_plan import CropPlan
    from engine.data.through_vae import pairs_to_reconstruct, read_reconstruction, share_kept

    dataset = Dataset.open(workspace.dataset_folder(data.dataset))
    located = place_of(workspace, base)
    if not located or dataset.condition is None:
        return ""
    plan = CropPlan.of(data)
    seen = [
        read_reconstruction(workspace.cache, located, dataset, sample, plan) for sample in pairs_to_reconstruct(dataset)
    ]
    found = [one for one in seen if one is not None]
    kept = share_kept(found) if len(found) == len(seen) else None
    if kept is None:
        return ""
    if kept >= LOST:
        return note(f"The base's VAE leaves {kept:.0%} of the pixels of their lines.", "good")
    told = f"Thin lines are lost: the base's VAE leaves {kept:.0%} of the pixels of their lines."
    return note(f"{told} {thicker_lines(dataset, data.resolution)}", "warning")


def reconstruction_of(workspace: Workspace, dataset: Dataset, sample: Any, plan: Any, base: str) -> Any:
    """Return the file of what the VAE leaves of a sample's control image; None: not known, or its nets read pixels."""
    from engine.data.through_vae import read_reconstruction

    located = place_of(workspace, base)
    if not located or dataset.condition is None:
        return None
    try:
        found = read_reconstruction(workspace.cache, located, dataset, sample, plan)
    except UserError:
        return None  # the image is gone; other parts of the tab report it
    return found.picture if found is not None and found.picture.exists() else None
