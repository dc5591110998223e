"""The widgets of the control image, and the fields that follow the selected run."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from engine.inference.settings import declared
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.user_image import UserDrawing, UserImage, wire_upload
from ui.try_it.try_control import DRAW, HELD_OUT, UPLOAD, advice, as_in_run, held_out, prompt_alone, sampler_box
from ui.try_it.try_panels import Fields

SHEET = (512, 512)
"""Size of the drawing canvas, px."""


def black_sheet() -> dict[str, Any]:
    """Return the editor's first value. It is black, because most maps are light on black."""
    return {"background": Image.new("RGB", SHEET), "layers": [], "composite": None}


class ControlPanel:
    """Adds its widgets to ``fields``. Call ``wire`` when the whole form is built."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        with gr.Column(elem_classes="snug") as self.box:
            fields["source"] = gr.Radio(
                [HELD_OUT, UPLOAD, DRAW], value=HELD_OUT, label="Control image", elem_id="try-source"
            )
            fields["at"] = gr.State(0)
            with gr.Column(elem_classes="snug") as self.dataset:
                self.control = gr.Image(
                    label="Map of a held-out image",
                    interactive=False,
                    type="filepath",
                    height=150,
                    buttons=["fullscreen"],
                    elem_id="try-control",
                )
                with gr.Row(elem_classes="pager"):
                    self.back = gr.Button("‹ Previous", size="sm")
                    self.forth = gr.Button("Next ›", size="sm", elem_id="try-another")
            with gr.Column(visible=False, elem_classes="snug") as self.own:
                fields["upload"] = UserImage(
                    label="My own image", sources=("upload", "clipboard", "webcam"), height=240, elem_id="try-upload"
                )
                fields["is_map"] = gr.Checkbox(
                    label="This is already a control image",
                    info="Otherwise its map is extracted with the same settings as the training maps.",
                    elem_id="try-is-map",
                )
                self.advice = gr.HTML(elem_id="try-advice")
            with gr.Column(visible=False, elem_classes="snug") as self.sheet:
                fields["drawing"] = UserDrawing(
                    type="pil",
                    sources=(),
                    label="Draw the control image",
                    canvas_size=SHEET,
                    fixed_canvas=True,
                    layers=False,
                    transforms=(),
                    brush=gr.Brush(colors=["#ffffff", "#ff0000", "#00ff00", "#0000ff", "#000000"], default_size=6),
                    height=400,
                    buttons=[],
                    elem_id="try-drawing",
                    value=black_sheet(),
                )
                gr.HTML(note("Your drawing is the control image itself; the rest is black."))

    def wire(self, context: AppContext, live: Live, more: Any) -> None:
        """Connect the events: another run, another source, another image.

        Args:
            more: the panel of what else concerns control images.
        """
        fields = self._fields
        of_run = [name for name, one in declared().items() if one.from_run]
        run, source, at = fields["run"], fields["source"], fields["at"]

        def show(name: str | None, number: int) -> tuple[Any, ...]:
            sample = held_out(context, name, number)
            return (str(sample.thumbnail), sample.caption, number) if sample else (None, "", 0)

        def show_run(name: str | None) -> list[Any]:
            values, prompt = as_in_run(context, name), prompt_alone(context, name)
            controlled = prompt is None
            shown = show(name, 0) if controlled else (None, prompt, 0)
            values["strength"] = gr.Slider(value=values.get("strength", 1.0), visible=controlled)
            panels = [gr.Column(visible=controlled), gr.Accordion(visible=controlled)]
            return [*shown, *(values.get(field, gr.skip()) for field in of_run), *panels]

        def advise(name: str | None, path: str | None, ticked: bool) -> str:
            sentence = advice(context, name, path, ticked)
            return note(sentence, "warning") if sentence else ""

        held = [self.control, fields["prompt"], at]
        with_run = [*held, *(fields[name] for name in of_run), self.box, more]
        live.on(run.change, show_run, [run], with_run)
        sampler = fields["sampler"]
        live.on(run.change, lambda name, chosen: sampler_box(context, name, chosen)[0], [run, sampler], [sampler])
        live.on(self.back.click, lambda name, number: show(name, number - 1), [run, at], held)
        live.on(self.forth.click, lambda name, number: show(name, number + 1), [run, at], held)
        live.on(
            source.change,
            lambda kind: [gr.Column(visible=kind == one) for one in (HELD_OUT, UPLOAD, DRAW)],
            [source],
            [self.dataset, self.own, self.sheet],
        )
        wire_upload(live, fields["upload"])
        for widget in (fields["upload"], fields["is_map"], run):
            looked_at = [run, fields["upload"], fields["is_map"]]
            live.on(widget.change, advise, looked_at, [self.advice])
        live.outputs(
            with_run,
            lambda view: (view.runs, view.shown_run),
            lambda view: show_run(view.shown_run or next(iter(view.runs), None)),
        )
