"""Try it: an image from a checkpoint and a control image, beside the same image without control."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.page.choices import run_list
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import job_progress, note
from ui.page.view import View
from ui.try_it import try_history, try_jobs, try_panels
from ui.try_it.try_control import Control
from ui.try_it.try_control_panel import ControlPanel
from ui.try_it.try_jobs import BORROWED, KIND, LOOK, Wish
from ui.try_it.try_nets import net_list, pick_net
from ui.try_it.try_panels import Fields

SETTINGS = (
    "prompt", "negative", "seed", "steps", "guidance", "strength", "width", "height", "sampler", "start", "end",
    "guess", "balance", "change", "second_strength",
)  # fmt: skip
WHOLE = ("seed", "steps", "width", "height")


def build(context: AppContext, live: Live) -> None:
    """Everything on the tab."""
    fields: Fields = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=340):
            fields["run"] = run_list(live, "Run", "try-run")
            fields["net"] = net_list(context, live, fields["run"], "try-checkpoint")
            control = ControlPanel(fields)
            fields["prompt"] = gr.Textbox(
                label="Prompt", lines=2, elem_id="try-prompt", info="What the image should show."
            )
            with gr.Row():
                fields["seed"] = gr.Number(0, label="Seed", precision=0, info="The same seed draws the same image.")
                fields["strength"] = gr.Slider(
                    0, 2, value=1, step=0.05, label="Control strength", info="0: off, 1: as trained."
                )
            make = gr.Button("Make the image", variant="primary", elem_id="try-make")
            cancel = gr.Button("Cancel", visible=False, elem_id="try-cancel")
            progress = gr.HTML(elem_id="try-progress")
            try_panels.drawing_panel(fields)
            try_panels.say_panel(fields)
            try_panels.over_panel(fields)
            try_panels.second_panel(context, live, fields)
            everywhere = try_panels.base_panel(context, live, fields)
        with gr.Column(scale=3, min_width=420, elem_id="try-made"):
            look = gr.Image(
                label="So far", interactive=False, type="filepath", height=300, visible=False, buttons=[],
                elem_id="try-look",
            )  # fmt: skip
            results = gr.Gallery(
                show_label=False, columns=3, height="auto", object_fit="contain", buttons=["download", "fullscreen"],
                interactive=False, visible=False, elem_id="try-results",
            )  # fmt: skip
            words = gr.HTML(note("The image appears here, beside the one without control."), elem_id="try-words")
            try_history.build(context, live, fields)
    control.wire(context, live)
    inputs = set(fields.values())  # gradio then hands them over by widget, not by position

    def start(data: dict[Any, Any], on_all: bool = False) -> None:
        try_jobs.start(context, _wish(context, {name: data[widget] for name, widget in fields.items()}, on_all))

    def on_all(data: dict[Any, Any]) -> None:
        start(data, True)

    live.refresh_after(make.click(context.catch_errors(start, has_outputs=False), inputs, None, **NO_PROGRESS))
    live.refresh_after(everywhere.click(context.catch_errors(on_all, has_outputs=False), inputs, None, **NO_PROGRESS))
    live.refresh_after(cancel.click(lambda: try_jobs.cancel(context), None, None, **NO_PROGRESS))
    live.outputs([make, everywhere, cancel, progress], _job_key, _job)
    live.outputs([look], lambda view: view.results.get(LOOK), _look)
    live.outputs([results, words], lambda view: view.results.get(KIND), _result)


def _wish(context: AppContext, values: dict[str, Any], on_all: bool) -> Wish:
    """What stands on the page, in the engine's terms."""
    settings = {name: values[name] for name in SETTINGS}
    settings |= {name: int(values[name] or 0) for name in WHOLE}
    settings |= {name: values[name] or "" for name in ("prompt", "negative")}
    image, mask = try_jobs.painted(values["editor"])
    return Wish(
        run=values["run"] or "",
        net=pick_net(context, values["run"], values["net"], values["own"] or ""),
        control=Control(values["source"], values["at"], values["upload"], values["drawing"], bool(values["is_map"])),
        settings=settings,
        count=int(values["count"]),
        any_seed=bool(values["any_seed"]),
        compare=bool(values["compare"]),
        base=values["base"] or "",
        bases_folder=(values["bases_folder"] or "").strip() if on_all else "",
        image=image,
        mask=mask,
        second=values["second"] or "",
        second_control=values["second_control"],
        thrift=int(values["thrift"]),
    )


def _job_key(view: View) -> Any:
    snapshot = view.snapshot
    own = snapshot if snapshot.kind == KIND else (snapshot.alive, snapshot.kind, snapshot.title)
    return own, view.results.get(BORROWED)


def _job(view: View) -> list[Any]:
    snapshot, borrowed = view.snapshot, view.results.get(BORROWED)
    own = snapshot.kind == KIND and snapshot.alive
    training = snapshot.is_training
    free = not snapshot.alive or (training and borrowed is None)
    words = ""
    if own:
        words = job_progress(snapshot)
    elif borrowed is not None:
        words = borrowed.note
    elif training:
        words = note("A training is running: it lends its models between two steps and then goes on.")
    elif snapshot.alive:
        words = note(f"“{snapshot.title}” is running: wait for it, or cancel it, then try again.")
    return [
        gr.Button(interactive=free),
        gr.Button(interactive=free and not training),
        gr.Button(visible=own or borrowed is not None),
        words,
    ]


def _look(view: View) -> list[Any]:
    look = view.results.get(LOOK)
    return [gr.Image(look.where if look else None, visible=look is not None)]


def _result(view: View) -> list[Any]:
    result = view.results.get(KIND)
    if result is None:
        return [gr.Gallery([], visible=False), gr.skip()]
    return [gr.Gallery(list(result.pictures), visible=True), note(result.note)]
