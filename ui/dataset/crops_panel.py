"""Crops and buckets: what is cut off, how many images each size has, and what the ControlNet sees."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine import config
from engine.errors import UserError
from engine.machine.units import counted
from ui.page.choices import open_dataset, pick_dataset
from ui.page.context import AppContext
from ui.page.enlarge import gallery
from ui.page.form import widget
from ui.page.live import Live
from ui.page.messages import note

EXAMPLES = 6
EXAMPLE_SIDE = 320  # longer side of an example, px
NAMES = ("resolution", "crop", "buckets")


def build(context: AppContext, live: Live, chosen: Any) -> None:
    """Build the panel for the dataset that ``chosen`` names."""
    fields = config.fields("data")
    with gr.Row(equal_height=False, elem_id="crops"):
        with gr.Column(scale=2, min_width=300):
            boxes = [widget(fields[name], fields[name].default, f"crops-{name}") for name in NAMES]
            apply = gr.Button("Use these for the next run", elem_id="crops-keep")
        with gr.Column(scale=3, min_width=420):
            table = gr.HTML(elem_id="crops-table")
            with gr.Row(elem_classes="buttons"):
                look = gr.Button("Show what the ControlNet sees", variant="primary", elem_id="crops-look")
                more = gr.Button("Other images", visible=False, elem_id="crops-more")
            seen = gallery("crops-seen", columns=3, downloads=False)
    turn = gr.State(0)
    inputs = [chosen, *boxes]
    changes = [chosen.change, *(box.change for box in boxes)]
    hidden = [gr.Gallery(visible=False), gr.Button(visible=False), 0]
    live.outputs([*boxes], lambda view: view.draft.number, lambda view: draft_values(context), "form")
    live.on(changes, lambda name, *raw: render_table(context, name, raw), inputs, [table], trigger_mode="always_last")
    live.on(changes, lambda: hidden, None, [seen, more, turn])
    live.on(
        [look.click, more.click],
        lambda at, name, *raw: render_examples(context, name, raw, at),
        [turn, *inputs],
        [seen, more, turn],
        show_progress="full",
    )
    live.on(apply.click, lambda name, *raw: apply_draft(context, raw), inputs)


def draft_values(context: AppContext) -> list[Any]:
    """Return the next run's settings, or the defaults while the form on the Train tab has an error."""
    data = _of_draft(context)
    return [getattr(data, name) for name in NAMES]


def _of_draft(context: AppContext) -> config.DataConfig:
    try:
        return context.config_of(context.draft)[0].data
    except UserError:
        return config.DataConfig()


def _parse(raw: tuple[Any, ...], bucket_step: int = 64) -> config.DataConfig:
    """Return the settings. Raises UserError if one is out of bounds."""
    values = {**dict(zip(NAMES, raw, strict=True)), "bucket_step": bucket_step}
    return config.parse({"data": values}, "These crop settings").data


def apply_draft(context: AppContext, raw: tuple[Any, ...]) -> None:
    """Use these crop settings for the next run."""
    data, draft = _parse(raw), context.draft
    values = {name: getattr(data, name) for name in NAMES}
    changes = {**draft.changes, "data": {**draft.changes.get("data", {}), **values}}
    context.set_draft(draft.preset, changes, refresh_forms=True)
    gr.Info("The next run will use these settings: see the Train tab.")


def render_table(context: AppContext, name: str | None, raw: tuple[Any, ...]) -> str:
    """Return how many images each size has, and how much is cut off."""
    from engine.data.crop_plan import CropPlan, bucket_sizes, count_buckets

    if not pick_dataset(context, name):
        return note("No dataset yet: read a folder of images above.")
    dataset = open_dataset(context, name)
    plan = CropPlan.of(_parse(raw, _of_draft(context).bucket_step))
    counts = count_buckets((sample for page in _pages(dataset) for sample in page), plan)
    total = sum(entry.images for entry in counts)
    if not total:
        return note("This dataset has no images.")
    rows = "".join(
        f"<tr><td>{entry.size[0]} x {entry.size[1]}</td><td>{entry.images:,}</td><td>{entry.lost:.0%}</td></tr>"
        for entry in counts
    )
    lost = sum(entry.lost * entry.images for entry in counts) / total
    text = f"<b>{counted(total, 'image')}</b> in {counted(len(counts), 'size')}; {lost:.0%} of"
    rare = sum(1 for entry in counts if entry.images == 1)
    few = note(f"{counted(rare, 'size has', 'sizes have')} only one image.") if rare and len(counts) > 1 else ""
    if plan.buckets and len(bucket_sizes(plan.resolution, plan.step)) == 1:
        few = note(f"At {plan.resolution} px only square crops are possible: choose a higher resolution.", "warning")
    head = "<tr><th>Size in pixels</th><th>Images</th><th>Cut off</th></tr>"
    return f"<p class='facts'>{text} the area is cut off</p><table class='facts sizes'>{head}{rows}</table>{few}"


def _pages(dataset: Any, size: int = 2000) -> Any:
    offset = 0
    while page := dataset.index.samples(offset, size):
        yield page
        offset += size


def render_examples(context: AppContext, name: str | None, raw: tuple[Any, ...], turn: int) -> tuple[Any, Any, int]:
    """Return images as they are cropped, with their map beside and over them if there is one."""
    from engine.data.crop_plan import CropPlan

    if not pick_dataset(context, name):
        return gr.Gallery(visible=False), gr.Button(visible=False), 0
    dataset, plan = open_dataset(context, name), CropPlan.of(_parse(raw, _of_draft(context).bucket_step))
    total = dataset.count()
    step = max(1, total // EXAMPLES)
    places = [(place * step + turn) % total for place in range(min(EXAMPLES, total))]
    shown = []
    for sample in [dataset.samples(place, 1)[0] for place in places]:
        try:
            shown.append(_example(dataset, sample, plan, turn))
        except UserError as error:
            gr.Warning(escape(error.what))
    return gr.Gallery(shown, visible=True), gr.Button(visible=total > EXAMPLES or plan.variants > 1), turn + 1


def _example(dataset: Any, sample: Any, plan: Any, turn: int) -> tuple[Any, str]:
    """Return one image as the ControlNet sees it, and a line about it."""
    import numpy as np
    from PIL import Image

    from engine.conditions import registry
    from engine.data.crop import apply_crop, lost_fraction
    from engine.disk.images import load_map, load_rgb

    image = load_rgb(sample.image, old_ground=sample.old_ground)
    crop = plan.crop(sample, turn % plan.variants_of(sample), image)
    parts = [apply_crop(image, crop)]
    if dataset.condition is not None and (path := dataset.condition_path(sample)).exists():
        nearest = registry.get(dataset.condition.type).categorical
        made = apply_crop(load_map(path, sample.old_ground), crop, nearest=nearest)
        parts += [made, Image.blend(parts[0], made, 0.5)]
    for part in parts:
        part.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
    row = Image.fromarray(np.concatenate([np.asarray(part) for part in parts], axis=1))
    return row, f"{lost_fraction(crop):.0%} cut off · {crop.size[0]} x {crop.size[1]} · {sample.key}"
