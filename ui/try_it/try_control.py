"""The control image on Try it: from the dataset, from a file or camera, or drawn; and whether it looks right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.inference import control_image
from engine.inference.control_image import held_out_maps, look_warning, map_of
from engine.runs.run import Run
from ui.page.choices import run_of
from ui.page.context import AppContext

HELD_OUT, UPLOAD, DRAW = "A held-out image", "An image of mine", "Draw it"
THUMBNAIL = 384


@dataclass(frozen=True)
class HeldOut:
    """A pair that the run was not trained on."""

    condition: Path
    thumbnail: Path
    caption: str


@dataclass(frozen=True)
class Control:
    """What the control image is made from, as the page has it."""

    source: str
    at: int = 0
    """Number of the held-out pair; it wraps around."""
    upload: str | None = None
    drawing: Any = None
    """What gradio's editor holds: {"background", "layers", "composite"}, Pillow images."""
    is_map: bool = False


def held_out(context: AppContext, run_name: str | None, at: int) -> HeldOut | None:
    """A held-out pair of the run's dataset (``at`` wraps around), or None where there is none any more."""
    from engine.disk.images import thumbnail

    run = run_of(context, run_name)
    pairs = held_out_maps(context.workspace, run) if run else []
    if not pairs:
        return None
    condition, caption = pairs[at % len(pairs)]
    try:
        return HeldOut(condition, thumbnail(condition, context.workspace.thumbnails, THUMBNAIL), caption)
    except UserError:
        return None  # its map is gone


def as_in_run(context: AppContext, run_name: str | None) -> dict[str, Any]:
    """Steps, guidance, strength and size with which the run draws its own control images; empty for no run."""
    run = run_of(context, run_name)
    if run is None:
        return {}
    settings, side = run.config.validation, run.config.data.resolution
    return {
        "steps": settings.sampling_steps, "guidance": settings.guidance_scale, "strength": settings.strength,
        "width": side, "height": side,
    }  # fmt: skip


def make_map(context: AppContext, control: Control, run: Run) -> tuple[Any, list[str]]:
    """The condition map, a Pillow image in RGB of any size, and what is to be said of it.

    Raises:
        UserError: there is no image, or its map cannot be made.
    """
    from engine.disk.images import load_rgb

    if control.source == HELD_OUT:
        sample = held_out(context, run.name, control.at)
        if sample is None:
            raise UserError(
                "There is no held-out image.",
                "The run's dataset is gone or has too few images.",
                "Upload an image.",
            )
        return load_rgb(sample.condition), []
    image = drawn(control.drawing) if control.source == DRAW else load_rgb(control.upload) if control.upload else None
    if image is None:
        raise UserError(
            "There is no control image.", "None was uploaded or drawn.", "Give one, or use a held-out image."
        )
    if control.is_map or control.source == DRAW:
        return image, [words] if (words := look_warning(context.workspace, run, image)) else []
    return map_of(run, image), []


def drawn(value: Any) -> Any:
    """What was drawn, on black where nothing is; None for an empty sheet."""
    from PIL import Image

    layers = [one for one in (value or {}).get("layers", []) if one is not None and one.getbbox()]
    if not layers:
        return None
    sheet = Image.new("RGB", layers[0].size)
    for layer in layers:
        sheet.paste(layer.convert("RGB"), mask=layer.convert("RGBA").getchannel("A"))
    return sheet


def advice(context: AppContext, run_name: str | None, upload: str | None, is_map: bool) -> str:
    """What to say under an uploaded image, before anything is drawn."""
    from engine.disk.images import load_rgb

    run = run_of(context, run_name)
    return control_image.advice(context.workspace, run, load_rgb(upload), is_map) if run and upload else ""
