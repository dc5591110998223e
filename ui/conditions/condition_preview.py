"""The right half of the Conditions tab: an image beside its map, a sheet of random ones, an image of the user's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.jobs.control import Cancelled, CancelToken, Control
from engine.machine.units import counted
from ui.conditions.condition_form import ConditionSettings
from ui.page.choices import open_dataset, pick_dataset
from ui.page.context import AppContext
from ui.page.messages import note
from ui.page.user_image import UserImage


class ConditionPreview:
    """Builds the widgets. The tab wires them."""

    def __init__(self) -> None:
        self.slider = gr.ImageSlider(
            label="Image and map",
            type="filepath",
            interactive=False,
            height=470,
            elem_id="condition-preview",
            buttons=["fullscreen"],
            show_label=False,
            format="png",
        )
        self.number = gr.State(0)
        self.about = gr.HTML(elem_id="condition-about")
        with gr.Row():
            self.back = gr.Button("‹ Previous image", size="sm", min_width=120)
            self.forth = gr.Button("Next image ›", size="sm", min_width=120, elem_id="condition-next")
            self.show = gr.Button("Show the map", size="sm", min_width=120, visible=False, elem_id="condition-show")
            self.cancel = gr.Button("Cancel", size="sm", min_width=120, visible=False, elem_id="condition-cancel")
            self.random = gr.Button("Twelve random images", size="sm", min_width=120, elem_id="condition-sheet-make")
        self.sheet = gr.Gallery(
            label="Twelve images with their maps",
            columns=3,
            object_fit="contain",
            height="auto",
            visible=False,
            show_label=False,
            interactive=False,
            format="webp",
            elem_id="condition-sheet",
        )
        with gr.Accordion("Test it on an image of your own", open=False, elem_id="condition-own"):
            self.upload = UserImage(label="Any image", height=180, elem_id="condition-upload", show_label=False)


class Cancellable:
    """What handlers of this tab are doing, so that Cancel can end it: a slow model, or the user's own program."""

    def __init__(self) -> None:
        self._controls: set[Control] = set()

    def do(self, work: Callable[[CancelToken], tuple[Any, str]]) -> tuple[Any, str]:
        """Return ``work(token)``, or a sentence in its place if it is cancelled."""
        control = Control()
        self._controls.add(control)
        try:
            return work(control.token)
        except Cancelled:
            return gr.skip(), note("Cancelled.")
        finally:
            self._controls.discard(control)

    def cancel(self) -> None:
        """End what is being done."""
        for control in list(self._controls):
            control.cancel()


def show(
    context: AppContext,
    dataset_name: str | None,
    at: int,
    upload: str | None,
    settings: ConditionSettings,
    token: CancelToken | None = None,
) -> tuple[Any, str]:
    """Return the two images of the slider, and text about them.

    Args:
        at: number of the image in the dataset; it wraps around.
        upload: path of the user's own image, shown in place of the dataset's.
    """
    from engine.data import map_preview

    values = settings.resolved()
    if upload and settings.kind.extract:
        shown = map_preview.of_file(settings.kind, Path(upload), values, settings.side, token)
        return (shown.image, shown.map), _about(shown, "Your image", None)
    dataset = _dataset(context, dataset_name)
    if dataset is None:
        return None, note("No dataset yet. Read your images on the Dataset tab first, or test an image of your own.")
    samples = dataset.samples(at % max(1, dataset.count()), 1)
    if not samples:
        return None, note("This dataset has no images.")
    try:
        shown = map_preview.of_sample(dataset, samples[0], settings.kind, values, settings.side, settings.varied, token)
    except UserError as error:  # a problem of one image is shown beside it, not on the panel
        return None, note(f"{error.what} {error.why} {error.try_this}", "warning")
    return (shown.image, shown.map), _about(shown, shown.name, settings if settings.varied is not None else None)


def contact_sheet(
    context: AppContext, dataset_name: str | None, settings: ConditionSettings, token: CancelToken | None = None
) -> tuple[Any, str]:
    """Return twelve random images with their maps for the gallery, and text about all of them."""
    import numpy as np

    from engine.data import map_preview

    dataset = _dataset(context, dataset_name)
    if dataset is None:
        return gr.Gallery(visible=False), note("No dataset yet. Read your images on the Dataset tab first.")
    seed = random.randrange(2**31)
    found = map_preview.sheet(dataset, settings.kind, settings.resolved(), settings.side, settings.varied, seed, token)
    pairs = []
    for shown in found:
        sign = "! " if shown.measured["warning"] else ""
        caption = f"{sign}{shown.measured['share']:.0%} not black · {Path(shown.name).name}"
        pairs.append((np.concatenate([shown.image, shown.map], 1), caption))
    poor = [shown.name for shown in found if shown.measured["warning"]]
    text = f"{counted(len(found), 'random image')}. " + (
        f"{counted(len(poor), 'of their maps is', 'of their maps are')} nearly empty or nearly full: "
        f"{', '.join(poor[:4])}."
        if poor
        else "None of their maps is nearly empty or nearly full."
    )
    return gr.Gallery(pairs, visible=True), note(text, "warning" if poor else "good")


def _dataset(context: AppContext, name: str | None) -> Any:
    return open_dataset(context, name) if pick_dataset(context, name) else None


def _about(shown: Any, name: str, varied: ConditionSettings | None) -> str:
    """Return name, size, coverage and grey levels, the settings picked for this image, and a warning."""
    measured = shown.measured
    levels = f"{measured['levels']} grey levels" if measured["levels"] > 2 else "black and white"
    height, width = shown.map.shape[:2]
    facts = f"{escape(name)} · {width} x {height} px · {measured['share']:.1%} of the map is not black · {levels}"
    varying = [parameter for parameter in varied.kind.parameters if parameter.vary] if varied else []
    used = " · ".join(f"{parameter.title} {shown.values[parameter.name]:g}" for parameter in varying)
    return (
        f"<p class='hint'>{facts}</p>"
        + (f"<p class='hint'>Settings picked for this image: {escape(used)}</p>" if used else "")
        + note(measured["warning"], "warning")
    )
