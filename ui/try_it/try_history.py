"""Earlier images, and settings restored from a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from engine.inference import image_info
from engine.inference.samplers import SAMPLERS
from engine.inference.settings import declared
from engine.jobs.snapshot import JobKind
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import View
from ui.try_it.try_control import UPLOAD, sampler_box
from ui.try_it.try_jobs import WITH
from ui.try_it.try_panels import Fields

SHOWN, THUMBNAIL = 24, 256
"""Number of earlier images, and side of their thumbnails in px."""


def build(context: AppContext, live: Live, fields: Fields) -> None:
    """Build the panel. ``fields``: the form, which it fills."""
    with gr.Accordion("Earlier images", open=False, elem_id="try-history"):
        gr.HTML(note("Click one, or drop any PNG made by this app or AUTOMATIC1111, to restore its settings."))
        gallery = gr.Gallery(
            show_label=False,
            columns=6,
            height="auto",
            object_fit="cover",
            interactive=False,
            allow_preview=False,
            buttons=[],
            elem_id="try-earlier",
        )
        dropped = gr.File(label="PNG with settings", file_types=["image"], height=132, elem_id="try-restore")
        restored = gr.HTML(elem_id="try-restored")
    names = [name for name, one in declared().items() if one.restored]
    targets = [fields[name] for name in (*names, "run", "source", "upload", "is_map")]

    def restore(path: str | Path | None) -> list[Any]:
        if not path:
            return [gr.skip()] * (len(targets) + 1)
        settings = image_info.read_settings(path)
        updates = {name: gr.skip() if settings.get(name) is None else settings[name] for name in names}
        run = settings.get("run")
        extra = ""
        if settings.get("sampler") in [one.name for one in SAMPLERS] and run in context.files()[1]:
            updates["sampler"], extra = sampler_box(context, run, settings["sampler"])
        control = context.workspace.outputs / Path(str(settings.get("control") or "-")).name
        source = [UPLOAD, str(control), True] if control.is_file() else [gr.skip()] * 3
        drawn_over = settings.get("inpainted") or settings.get("change") is not None
        over = "The image to draw over is not stored in it: choose it again." if drawn_over else ""
        text = note(" ".join(filter(None, (f"Restored the settings of {Path(path).name}.", over, extra))), "good")
        return [*updates.values(), run if run in context.files()[1] else gr.skip(), *source, text]

    def select(event: gr.SelectData) -> list[Any]:
        found = earlier(context)
        return restore(found[event.index] if event.index < len(found) else None)

    live.on(gallery.select, select, None, [*targets, restored])
    live.on(dropped.upload, restore, [dropped], [*targets, restored])
    live.outputs([gallery], lambda view: _number(view), lambda view: [_thumbnails(context)])


def earlier(context: AppContext) -> list[Path]:
    """Return the newest images that were drawn with a ControlNet."""
    return image_info.newest(context.workspace.outputs, SHOWN, f"_{WITH}.png")


def _thumbnails(context: AppContext) -> list[str]:
    from engine.disk.images import thumbnail

    return [str(thumbnail(path, context.workspace.thumbnails, THUMBNAIL)) for path in earlier(context)]


def _number(view: View) -> int:
    result = view.results.get(JobKind.TRY)
    return result.number if result else 0
