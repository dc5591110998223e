"""Before Start: three pairs as the net will see them, what the run will take, and what to expect of it."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.config import DataConfig, RunConfig
from engine.data.dataset import Dataset
from engine.errors import UserError
from engine.machine.units import counted
from engine.tuning.facts import facts_of
from engine.workspace.paths import Workspace
from ui.page import enlarge
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.places import go_button
from ui.page.states import TrainTabState
from ui.page.view import View
from ui.train.advice import short_table
from ui.train.cautions import AFTER_BLUR, fill_form
from ui.train.run_form import RunForm
from ui.train.through_vae import DECODED, build_progress, lines_text, reconstruction_of
from ui.train.trial import build_trial

PAIRS = 3
SIDE = 512
"""Longer side of each half of a shown pair, px."""
NO_DATASET = (
    "When you have a dataset, this shows what the run will take, what to expect of it, and three of your images."
)


def build_before_start(context: AppContext, live: Live, form: RunForm) -> Any:
    """Build the part that is shown while a run is set up. Returns its column."""
    with gr.Column(elem_id="before-start", elem_classes="snug") as box:
        forecast = gr.HTML(elem_id="forecast")
        steps = gr.Button("Set the advised steps", elem_id="advised-steps", elem_classes="pressed-by-script")
        build_trial(context, live, form)
        pairs = gr.HTML(js_on_load=enlarge.ON_LOAD, elem_id="first-pairs")
        build_progress(context, live)
    live.on(steps.click, lambda: take_steps(context))
    live.outputs(
        [forecast],
        lambda view: (view.train.state, view.train.hint, view.train.advice, view.train.cautions, not view.datasets),
        lambda view: [forecast_html(view)],
    )
    live.outputs([pairs], lambda view: key_of(context, view), lambda view: [_pairs(context, view)])
    return box


def forecast_html(view: View) -> str:
    """Return what the run takes and what to expect of it. While it cannot start, the reason is shown elsewhere."""
    if view.train.state is not TrainTabState.READY or not view.train.hint:
        return "" if view.datasets else note(NO_DATASET) + go_button("Go to Dataset", ["tab-dataset"], css="go next")
    taken = f"<h3>What this run will take</h3><p class='facts'>{escape(view.train.hint)}</p>"
    advice = view.train.advice
    return taken + (short_table(advice.lines, steps_button(view)) if advice is not None else "")


def steps_button(view: View) -> str:
    """Return the button that sets the advised steps: if others are set, and no caution offers the same."""
    advised = view.train.advice.other_steps if view.train.advice is not None else 0
    offered = any(one.offer is not None and "train.steps" in one.offer.settings for one in view.train.cautions)
    if not advised or offered:
        return ""
    press = f"setTimeout(()=>document.getElementById('advised-steps').click(),{AFTER_BLUR})"
    return f' <button type="button" class="look" onclick="{press}">Set {counted(advised, "step")}</button>'


def take_steps(context: AppContext) -> None:
    """Put the advised steps into the form."""
    advice = context.readiness().advice
    if advice is not None and advice.other_steps:
        fill_form(context, {"train.steps": advice.other_steps})


def key_of(context: AppContext, view: View) -> Any:
    """What the pairs that are shown depend on; None while none are shown."""
    if view.shown_run or view.train.active:
        return None
    changes = view.draft.changes
    chosen = changes.get("data", {}), changes.get("model", {})
    name = str(chosen[0].get("dataset") or "")
    what = changes.get("tuning", {}).get("what")
    return view.draft.preset, chosen, what, view.train.state, context.listing.stamp_of(name), view.auto_check.ended


def _config(context: AppContext) -> RunConfig | None:
    """Return the next run's settings; None while a value is out of bounds."""
    try:
        return context.config_of(context.draft)[0]
    except UserError:
        return None


def _pairs(context: AppContext, view: View) -> str:
    config = None if view.shown_run or view.train.active else _config(context)
    if config is None or not config.data.dataset:
        return ""
    try:
        if not facts_of(config).needs_condition_maps:
            return pairs_html(context.workspace, config.data, images_only=True)
        context.measure_lines_of_next_run()
        return pairs_html(context.workspace, config.data, config.model.base)
    except UserError:
        return ""  # an image is gone or damaged; other parts of the tab report it


def pairs_html(workspace: Workspace, data: DataConfig, base: str = "", images_only: bool = False) -> str:
    """Return the first, a middle and the last pair, cropped as for training, with their captions.

    Args:
        base: what its VAE leaves of the control images is shown, if that is known and its nets read latents.
        images_only: images are shown without their control images, also those that have none.

    Raises:
        UserError: the dataset or an image cannot be read.
    """
    from engine.data.crop_plan import CropPlan

    dataset = Dataset.open(workspace.dataset_folder(data.dataset))
    total = dataset.count(ready=not images_only)
    if not total:
        return ""
    plan = CropPlan.of(data)
    places = dict.fromkeys(place * (total - 1) // max(1, PAIRS - 1) for place in range(PAIRS))
    figures, through_vae = [], False
    for sample in (dataset.samples(place, 1, ready=not images_only)[0] for place in places):
        decoded = reconstruction_of(workspace, dataset, sample, plan, base) if base else None
        through_vae |= decoded is not None
        path, size = pair_image(workspace, dataset, sample, plan, decoded, with_map=not images_only)
        words = sample.caption or "no caption"
        figures.append(
            f"<figure>{enlarge.cell(path, f'{words} · {size[0]} x {size[1]} px')}"
            f"<figcaption>{escape(words)}</figcaption></figure>"
        )
    told = DECODED if through_vae else "Control images and images as cropped for training, with their captions."
    if images_only:
        told = "Images as cropped for training, with their captions."
    head = f"<h3>What the {'base' if images_only else 'ControlNet'} will see</h3>" + note(told)
    shown = f"<div class='strips pairs{' decoded' if through_vae else ''}'>{''.join(figures)}</div>"
    measured = lines_text(workspace, data, base) if base else ""
    dialog = enlarge.dialog("An image of the dataset" if images_only else "A pair of the dataset")
    return f"{head}{shown}{measured}{dialog}"


def pair_image(
    workspace: Workspace, dataset: Dataset, sample: Any, plan: Any, decoded: Any = None, with_map: bool = True
) -> tuple[Any, tuple[int, int]]:
    """Return the file of a pair's control image beside its image, made once, and the size that training uses, px.

    Args:
        decoded: the file of what the VAE leaves of the control image, to be shown between them.
        with_map: False shows the image alone.
    """
    import hashlib
    import io

    import numpy as np
    from PIL import Image

    from engine.conditions import registry
    from engine.data.crop import apply_crop
    from engine.disk.durable import atomic_write_bytes
    from engine.disk.images import load_map, load_rgb

    crop = plan.crop(sample)
    parts = [apply_crop(load_rgb(sample.image, old_ground=sample.old_ground), crop)]
    if with_map and dataset.condition is not None and (path := dataset.condition_path(sample)).exists():
        nearest = registry.get(dataset.condition.type).categorical
        parts.insert(0, apply_crop(load_map(path, sample.old_ground), crop, nearest=nearest))
        if decoded is not None:
            parts.insert(1, load_rgb(decoded))
    size = parts[-1].size
    for part in parts:
        part.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([np.asarray(part) for part in parts], axis=1)).save(buffer, "WEBP", quality=85)
    data = buffer.getvalue()
    target = workspace.thumbnails / f"{hashlib.sha256(data).hexdigest()[:32]}-pair.webp"
    if not target.exists():
        atomic_write_bytes(target, data, unique=True, flushed=False)
    return target, size
