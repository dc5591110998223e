"""The Try it tab: draw single images with a run's ControlNet, or compare its checkpoints."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.inference.settings import declared
from engine.jobs.snapshot import JobKind
from ui.page.choices import no_run_yet, run_list
from ui.page.context import AppContext
from ui.page.enlarge import gallery
from ui.page.live import Live
from ui.page.messages import note
from ui.page.model_jobs import ModelJobs
from ui.page.user_image import wire_upload
from ui.page.view import View
from ui.try_it import compare_panel, try_history, try_jobs, try_panels
from ui.try_it.try_control import ControlSource
from ui.try_it.try_control_panel import ControlPanel
from ui.try_it.try_jobs import PREVIEW, DrawRequest
from ui.try_it.try_nets import net_list, pick_net
from ui.try_it.try_panels import Fields

APPEARS = "The image appears here, next to the one without control."


def build(context: AppContext, live: Live) -> None:
    """Build both sections, each on a tab of its own."""
    with gr.Tabs(elem_id="try-tabs"):
        with gr.Tab("One image", id="one"):
            build_one(context, live)
        with gr.Tab("Compare checkpoints", id="compare", elem_id="tab-compare"):
            compare_panel.build(context, live)


def build_one(context: AppContext, live: Live) -> None:
    """Build the form and what it draws."""
    jobs, fields = ModelJobs(context, (JobKind.TRY,)), Fields()
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=340, elem_id="try-form"):
            with gr.Row():
                with gr.Column(min_width=140):
                    fields["run"] = run_list(live, "Run", "try-run")
                with gr.Column(min_width=140):
                    fields["net"] = net_list(context, live, fields["run"], "try-checkpoint")
            control = ControlPanel(fields)
            try_panels.add_settings(fields, "main")
            with gr.Row():
                make = gr.Button("Generate", variant="primary", elem_id="try-make")
                cancel = gr.Button("Cancel", visible=False, elem_id="try-cancel")
            progress = gr.HTML(elem_id="try-progress")
            try_panels.sampling_panel(fields)
            when = try_panels.control_panel(fields)
            try_panels.img2img_panel(fields)
            try_panels.second_panel(context, live, fields)
            on_all = try_panels.base_panel(context, live, fields)
        with gr.Column(scale=3, min_width=420, elem_id="try-made"):
            preview = gr.Image(
                label="Preview",
                interactive=False,
                type="filepath",
                height=300,
                visible=False,
                buttons=[],
                elem_id="try-look",
            )
            results = gallery("try-results", columns=3)
            message = gr.HTML(note(APPEARS), elem_id="try-words")
            try_history.build(context, live, fields)
    control.wire(context, live, when)
    for name in ("editor", "second_control"):
        wire_upload(live, fields[name])
    inputs = set(fields.values())  # a set: gradio then passes the values by widget, not by position

    def start(data: dict[Any, Any], on_all_bases: bool = False) -> None:
        values = {name: data[widget] for name, widget in fields.items()}
        try_jobs.start(jobs, _draw_request(context, values, on_all_bases))

    def start_on_all(data: dict[Any, Any]) -> None:
        start(data, on_all_bases=True)

    live.on(make.click, start, inputs)
    live.on(on_all.click, start_on_all, inputs)
    live.on(cancel.click, lambda: jobs.cancel())
    live.outputs(
        [make, on_all, cancel, progress],
        lambda view: (jobs.job(view), jobs.blocked_by(view), jobs.training),
        lambda view: _job_state(jobs, view),
    )
    live.outputs([preview], lambda view: view.results.get(PREVIEW), _preview)
    live.outputs([results, message], lambda view: (view.results.get(JobKind.TRY), not view.runs), shown_result)


def _draw_request(context: AppContext, values: dict[str, Any], on_all_bases: bool) -> DrawRequest:
    """Read the form. ``values``: of its widgets, by name."""
    image, mask = try_jobs.painted(values["editor"])
    return DrawRequest(
        run=values["run"] or "",
        net=pick_net(context, values["run"], values["net"], values["own"] or ""),
        control=ControlSource(
            values["source"], values["at"], values["upload"], values["drawing"], bool(values["is_map"])
        ),
        settings={name: one.read(values[name]) for name, one in declared().items()},
        count=int(values["count"]),
        random_seed=bool(values["random_seed"]),
        compare=bool(values["compare"]),
        bases_folder=(values["bases_folder"] or "").strip() if on_all_bases else "",
        image=image,
        mask=mask,
        second_control=values["second_control"],
        memory_saving=int(values["memory_saving"]),
    )


def _job_state(jobs: ModelJobs, view: View) -> list[Any]:
    busy, training = jobs.job(view) is not None, jobs.training
    free = not busy and not jobs.blocked_by(view)
    message = jobs.progress_html(view)
    if not message and training:
        message = note("A run is training: it pauses between two steps to draw your image, then continues.")
    return [
        gr.Button(interactive=free),
        gr.Button(interactive=free and not training),
        gr.Button(visible=busy),
        message,
    ]


def _preview(view: View) -> list[Any]:
    preview = view.results.get(PREVIEW)
    return [gr.Image(preview.where if preview else None, visible=preview is not None)]


def shown_result(view: View) -> list[Any]:
    """The images that were drawn last and the line about them, or what will appear there."""
    result = view.results.get(JobKind.TRY)
    if result is None:
        return [gr.Gallery([], visible=False), note(APPEARS) if view.runs else no_run_yet(APPEARS)]
    return [gr.Gallery(list(result.images), visible=True), note(result.note)]
