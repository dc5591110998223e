"""What was drawn before, and settings found again from an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from engine.inference import image_info
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import note
from ui.page.view import View
from ui.try_it.try_control import UPLOAD
from ui.try_it.try_jobs import KIND, WITH
from ui.try_it.try_panels import Fields

SHOWN, SIDE = 24, 256
RESTORED = (
    "prompt", "negative", "seed", "steps", "guidance", "sampler", "width", "height", "strength", "start", "end",
    "balance", "guess", "change", "second", "second_strength",
)  # fmt: skip


def build(context: AppContext, live: Live, fields: Fields) -> None:
    """The panel; ``fields`` also has "run", "source", "upload", "is_map"."""
    with gr.Accordion("Earlier images", open=False, elem_id="try-history"):
        gr.HTML(note("Choose one, or drop any PNG that this app or AUTOMATIC1111 has made: its settings come back."))
        gallery = gr.Gallery(
            show_label=False, columns=6, height="auto", object_fit="cover", interactive=False, allow_preview=False,
            buttons=[], elem_id="try-earlier",
        )  # fmt: skip
        dropped = gr.File(label="An image with settings", file_types=["image"], height=132, elem_id="try-restore")
        said = gr.HTML(elem_id="try-restored")
    targets = [fields[name] for name in RESTORED] + [fields[name] for name in ("run", "source", "upload", "is_map")]

    def restore(path: str | Path | None) -> list[Any]:
        if not path:
            return [gr.skip()] * (len(targets) + 1)
        settings = image_info.read_settings(path)
        values = [settings.get(name) for name in RESTORED]
        updates = [gr.skip() if value is None else value for value in values]
        run = settings.get("run")
        control = context.workspace.outputs / Path(str(settings.get("control") or "-")).name
        mine = [UPLOAD, str(control), True] if control.is_file() else [gr.skip()] * 3
        if settings.get("inpainted") or settings.get("change") is not None:
            extra = " The image that was drawn over is not kept: choose it again."
        else:
            extra = ""
        words = note(f"The settings of {Path(path).name} are back.{extra}", "good")
        return [*updates, run if run in context.files()[1] else gr.skip(), *mine, words]

    def chosen(event: gr.SelectData) -> list[Any]:
        found = earlier(context)
        return restore(found[event.index] if event.index < len(found) else None)

    gallery.select(context.catch_errors(chosen), None, [*targets, said], **NO_PROGRESS)
    dropped.upload(context.catch_errors(restore), [dropped], [*targets, said], **NO_PROGRESS)
    live.outputs([gallery], lambda view: _number(view), lambda view: [_thumbnails(context)])


def earlier(context: AppContext) -> list[Path]:
    """The newest images that were drawn with a net."""
    return image_info.newest(context.workspace.outputs, SHOWN, f"_{WITH}.png")


def _thumbnails(context: AppContext) -> list[str]:
    from engine.disk.images import thumbnail

    return [str(thumbnail(path, context.workspace.thumbnails, SIDE)) for path in earlier(context)]


def _number(view: View) -> int:
    made = view.results.get(KIND)
    return made.number if made else 0
