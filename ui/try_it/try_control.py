"""The control image of Try it: a held-out map, an image of the user, or a drawing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.families.files import configs_of
from engine.inference import control_image, samplers
from engine.inference.control_image import held_out_maps, look_warning, map_of, usual_prompt
from engine.inference.settings import run_defaults
from engine.jobs.control import CancelToken
from engine.runs.run import Run
from engine.tuning.facts import facts_of
from ui.page.choices import run_of
from ui.page.context import AppContext

HELD_OUT, UPLOAD, DRAW = "Held-out image", "My own", "Draw it"
THUMBNAIL = 384


@dataclass(frozen=True)
class HeldOut:
    """A pair that the run was not trained on."""

    condition: Path
    thumbnail: Path
    caption: str


@dataclass(frozen=True)
class ControlSource:
    """The source of the control image, as selected on the page."""

    source: str
    at: int = 0
    """Number of the held-out pair, modulo how many there are."""
    upload: str | None = None
    drawing: Any = None
    """The value of gradio's editor: {"background", "layers", "composite"}, Pillow images."""
    is_map: bool = False


def held_out(context: AppContext, run_name: str | None, at: int) -> HeldOut | None:
    """Return a held-out pair of the run's dataset, number ``at`` modulo how many there are, or None."""
    from engine.disk.images import thumbnail

    run = run_of(context, run_name)
    pairs = held_out_maps(context.workspace, run) if run else []
    if not pairs:
        return None
    condition, caption = pairs[at % len(pairs)]
    try:
        return HeldOut(condition, thumbnail(condition, context.workspace.thumbnails, THUMBNAIL), caption)
    except UserError:
        return None  # the file of its map is gone


def prompt_alone(context: AppContext, run_name: str | None) -> str | None:
    """Return a prompt for a run that is drawn without control images, such as a LoRA's; None: it needs one."""
    run = run_of(context, run_name)
    return usual_prompt(context.workspace, run) if run and facts_of(run.config).added_to_base else None


def as_in_run(context: AppContext, run_name: str | None) -> dict[str, Any]:
    """Return the settings with which the run draws its own previews, by name; none if there is no such run."""
    run = run_of(context, run_name)
    return run_defaults(run.config) if run else {}


def sampler_box(context: AppContext, run_name: str | None, chosen: str) -> tuple[Any, str]:
    """Return the list of samplers that suit the run's base, and a sentence if the chosen one is not among them.

    It then has the nearest one.
    """
    run = run_of(context, run_name)
    if run is None:
        return gr.skip(), ""
    facts = configs_of(context.workspace, run.config.model.base).facts
    near, why = samplers.suited(chosen, facts), samplers.why_unsuited(chosen, facts)
    box = gr.Dropdown([(one.title, one.name) for one in samplers.suiting(facts)], value=near.name, info=near.hint)
    return box, f"{why} {near.title}, the nearest one, is selected instead." if why else ""


def make_map(
    context: AppContext, control: ControlSource, run: Run, token: CancelToken | None = None
) -> tuple[Any, list[str]]:
    """Make the control image (Pillow, RGB, any size). Returns it with warnings about it.

    Raises:
        UserError: there is no image, or its map cannot be extracted.
        Cancelled: the token was cancelled while the map was made.
    """
    from engine.disk.images import load_map, load_rgb

    if control.source == HELD_OUT:
        sample = held_out(context, run.name, control.at)
        if sample is None:
            raise UserError(
                "There is no held-out image.",
                "The run's dataset is gone or has too few images.",
                "Upload an image.",
            )
        return load_map(sample.condition), []
    load = load_map if control.is_map else load_rgb
    image = drawn(control.drawing) if control.source == DRAW else load(control.upload) if control.upload else None
    if image is None:
        raise UserError(
            "There is no control image.", "None was uploaded or drawn.", "Add one, or use a held-out image."
        )
    if control.is_map or control.source == DRAW:
        return image, [warning] if (warning := look_warning(context.workspace, run, image)) else []
    return map_of(run, image, token), []


def drawn(value: Any) -> Any:
    """Return the drawing on a black background, or None if nothing was drawn."""
    from PIL import Image

    layers = [one for one in (value or {}).get("layers", []) if one is not None and one.getbbox()]
    if not layers:
        return None
    sheet = Image.new("RGB", layers[0].size)
    for layer in layers:
        sheet.paste(layer.convert("RGB"), mask=layer.convert("RGBA").getchannel("A"))
    return sheet


def advice(context: AppContext, run_name: str | None, upload: str | None, is_map: bool) -> str:
    """Return a hint about an uploaded image, shown before anything is drawn."""
    from engine.disk.images import load_map, load_rgb

    load = load_map if is_map else load_rgb
    run = run_of(context, run_name)
    return control_image.advice(context.workspace, run, load(upload), is_map) if run and upload else ""
