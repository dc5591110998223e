"""The right half of the Conditions tab: an image beside its map, what the map holds, and a sheet of random ones."""

from __future__ import annotations

import random
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from ui.conditions.condition_form import Wanted
from ui.page.choices import open_dataset, pick_dataset
from ui.page.context import AppContext
from ui.page.messages import note
from ui.page.user_image import UserImage


class ConditionPreview:
    """Builds the widgets; the tab wires them."""

    def __init__(self) -> None:
        self.slider = gr.ImageSlider(
            label="Image and map", type="filepath", interactive=False, height=470, elem_id="condition-preview",
            buttons=["fullscreen"], show_label=False, format="png",
        )  # fmt: skip
        self.number = gr.State(0)
        self.about = gr.HTML(elem_id="condition-about")
        with gr.Row():
            self.back = gr.Button("‹ Earlier image", size="sm", min_width=120)
            self.forth = gr.Button("Next image ›", size="sm", min_width=120, elem_id="condition-next")
            self.show = gr.Button("Show the map", size="sm", min_width=120, visible=False, elem_id="condition-show")
            self.random = gr.Button("Twelve at random", size="sm", min_width=120, elem_id="condition-sheet-make")
        self.sheet = gr.Gallery(
            label="Twelve images with their maps", columns=3, object_fit="contain", height="auto", visible=False,
            show_label=False,
            interactive=False, format="webp", elem_id="condition-sheet",
        )  # fmt: skip
        with gr.Accordion("Try an image of your own", open=False, elem_id="condition-own"):
            self.upload = UserImage(label="Any image", height=180, elem_id="condition-upload", show_label=False)


def show(context: AppContext, dataset_name: str | None, at: int, upload: str | None, wanted: Wanted) -> tuple[Any, str]:
    """The slider's two images, and words about them."""
    from engine.data import map_preview

    values = wanted.resolved()
    if upload and wanted.kind.extract:
        shown = map_preview.of_file(wanted.kind, Path(upload), values, wanted.side)
        return (shown.image, shown.map), _words(shown, "Your image", None)
    dataset = _dataset(context, dataset_name)
    if dataset is None:
        return None, note("Choose a dataset on the Dataset tab first, or try an image of your own.")
    samples = dataset.samples(at % max(1, dataset.count()), 1)
    if not samples:
        return None, note("This dataset has no images.")
    try:
        shown = map_preview.of_sample(dataset, samples[0], wanted.kind, values, wanted.side, wanted.varied)
    except UserError as error:  # an image's trouble belongs beside the image
        return None, note(f"{error.what} {error.why} {error.try_this}", "warning")
    return (shown.image, shown.map), _words(shown, shown.name, wanted if wanted.varied is not None else None)


def contact_sheet(context: AppContext, dataset_name: str | None, wanted: Wanted) -> tuple[Any, str]:
    """The gallery's pairs, another dozen at every call, and words about all of them."""
    import numpy as np

    from engine.data import map_preview

    dataset = _dataset(context, dataset_name)
    if dataset is None:
        return gr.Gallery(visible=False), note("Choose a dataset on the Dataset tab first.")
    found = map_preview.sheet(
        dataset, wanted.kind, wanted.resolved(), wanted.side, wanted.varied, seed=random.randrange(2**31)
    )
    pairs = []
    for shown in found:
        sign = "! " if shown.measured["warning"] else ""
        caption = f"{sign}{shown.measured['share']:.0%} not black · {Path(shown.name).name}"
        pairs.append((np.concatenate([shown.image, shown.map], 1), caption))
    poor = [shown.name for shown in found if shown.measured["warning"]]
    words = f"{len(found)} images at random. " + (
        f"{len(poor)} of their maps are nearly empty or nearly full: {', '.join(poor[:4])}."
        if poor
        else "None of their maps is nearly empty or nearly full."
    )
    return gr.Gallery(pairs, visible=True), note(words, "warning" if poor else "good")


def _dataset(context: AppContext, name: str | None) -> Any:
    return open_dataset(context, name) if pick_dataset(context, name) else None


def _words(shown: Any, name: str, varied: Wanted | None) -> str:
    """Name, share and grey levels; the settings that were drawn, where they are the image's own; a warning."""
    measured = shown.measured
    levels = f"{measured['levels']} gray levels" if measured["levels"] > 2 else "black and white"
    height, width = shown.map.shape[:2]
    facts = f"{escape(name)} · {width} x {height} px · {measured['share']:.1%} of the map is not black · {levels}"
    drawn = [p for p in varied.kind.parameters if p.vary] if varied else []
    used = " · ".join(f"{parameter.title} {shown.values[parameter.name]:g}" for parameter in drawn)
    return (
        f"<p class='hint'>{facts}</p>"
        + (f"<p class='hint'>Drawn for this image: {escape(used)}</p>" if used else "")
        + note(measured["warning"], "warning")
    )
