"""Conditions: choose what the ControlNet will follow, preview the map of one image, then make all maps."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from engine.conditions import registry
from engine.errors import UserError
from engine.queue.data_jobs import MakeMaps
from engine.queue.download_jobs import DownloadWeights
from ui.conditions import condition_jobs, condition_preview
from ui.conditions.condition_form import ConditionForm, ConditionSettings
from ui.conditions.condition_jobs import KIND
from ui.conditions.condition_preview import Cancellable, ConditionPreview
from ui.page.choices import dataset_list, open_dataset
from ui.page.context import AppContext
from ui.page.guide.steps import after_html
from ui.page.jobs import job_controls, queue_button
from ui.page.live import Live
from ui.page.messages import note
from ui.page.user_image import wire_upload
from ui.page.view import View


def build(context: AppContext, live: Live) -> None:
    """Build the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            chosen = dataset_list(live, "Dataset", "conditions-dataset")
            form = ConditionForm()
            weights = gr.HTML(elem_id="condition-lacking")
            download = gr.Button("Download the model", visible=False, elem_id="condition-download")
            make = gr.Button("Make all maps", variant="primary", elem_id="maps-make")
            add = queue_button(live, make)
            cancel = gr.Button("Cancel", visible=False, elem_id="maps-cancel")
            progress = gr.HTML(elem_id="maps-progress")
            result = gr.HTML(elem_id="maps-result")
        with gr.Column(scale=3, min_width=420):
            preview = ConditionPreview()

    def start(dataset: str | None, *raw: Any) -> None:
        settings = allow_program(context, form.read(*raw))
        found = open_dataset(context, dataset).name
        work = condition_jobs.make_maps(
            context, found, settings.kind.name, settings.values, settings.side, settings.varied
        )
        queued = MakeMaps(
            dataset=found,
            type=settings.kind.name,
            parameters=dict(settings.values),
            side=settings.side,
            varied=settings.varied,
        )
        context.start_job(KIND, f"Making maps of {found}", work, queued)

    def start_download(*raw: Any) -> None:
        settings = form.read(*raw)
        work = condition_jobs.download_weights(context, settings.kind.name, settings.resolved())
        queued = DownloadWeights(type=settings.kind.name, parameters=dict(settings.values))
        context.start_job(KIND, f"Downloading the model for {settings.kind.title}", work, queued)

    _wire_form(live, form, preview, make, weights, download)
    _wire_preview(context, live, form, preview, chosen)
    live.on(chosen.change, lambda name: _own_type(context, name), [chosen], [form.kind])
    live.on([make.click, add.click], start, [chosen, *form.inputs])
    live.on(download.click, start_download, form.inputs)
    job_controls(live, KIND, [], cancel, progress)
    live.outputs(
        [result],
        lambda view: (view.results.get(KIND), after_html(view, "obey")),
        lambda view: [_result(view)],
    )


def _wire_form(
    live: Live, form: ConditionForm, preview: ConditionPreview, make: Any, weights: Any, download: Any
) -> None:
    """Show what belongs to the selected type, and the weights that it lacks."""

    def show_type(name: str) -> list[Any]:
        kind = registry.get(name)
        title = "Make all maps" if kind.extract else "Use these maps"
        slow = gr.Button(visible=not kind.live)
        return [gr.Button(title), slow, slow, *form.show_type(name)]

    live.on(form.kind.change, show_type, [form.kind], [make, preview.show, preview.cancel, form.about, *form.groups])
    texts = [widget for widget in form.widgets if isinstance(widget, gr.Textbox)]
    live.on(
        [form.kind.change, *(box.change for box in texts)],
        lambda *raw: missing_weights(form.read(*raw)),
        form.inputs,
        [weights, download],
    )


def _wire_preview(context: AppContext, live: Live, form: ConditionForm, preview: ConditionPreview, chosen: Any) -> None:
    """Draw the preview again after every change of the form. Slow types wait for the button "Show the map"."""
    wire_upload(live, preview.upload)
    running = Cancellable()

    def show_live(dataset: str | None, at: int, upload: str | None, *raw: Any) -> tuple[Any, str]:
        settings = form.read(*raw)
        if not settings.kind.live:
            return None, note("Press “Show the map” to see the map of this image.")
        return condition_preview.show(context, dataset, at, upload, settings)

    def show(dataset: str | None, at: int, upload: str | None, *raw: Any) -> tuple[Any, str]:
        settings = allow_program(context, form.read(*raw))
        return running.do(lambda token: condition_preview.show(context, dataset, at, upload, settings, token))

    def turn(by: int) -> Callable[..., tuple[Any, ...]]:
        def turned(dataset: str | None, at: int, _upload: str | None, *raw: Any) -> tuple[Any, ...]:
            place = max(0, at + by)
            return *show_live(dataset, place, None, *raw), place, None

        return turned

    def sheet(dataset: str | None, *raw: Any) -> tuple[Any, str]:
        settings = allow_program(context, form.read(*raw))
        return running.do(lambda token: condition_preview.contact_sheet(context, dataset, settings, token))

    inputs = [chosen, preview.number, preview.upload, *form.inputs]
    shown = [preview.slider, preview.about]
    changes = [chosen.change, preview.upload.change, *(widget.change for widget in form.inputs)]
    live.on(changes, show_live, inputs, shown, trigger_mode="always_last")
    live.on(preview.back.click, turn(-1), inputs, [*shown, preview.number, preview.upload])
    live.on(preview.forth.click, turn(1), inputs, [*shown, preview.number, preview.upload])
    # Not over the text: gradio's overlay would lie over Cancel, too.
    over: dict[str, Any] = {"show_progress": "full", "show_progress_on": [preview.slider]}
    live.on(preview.show.click, show, inputs, shown, **over)
    live.on(preview.cancel.click, running.cancel, refresh=False)
    live.on(preview.random.click, sheet, [chosen, *form.inputs], [preview.sheet, preview.about], **over)


def allow_program(context: AppContext, settings: ConditionSettings) -> ConditionSettings:
    """Allow the user's own program to run: they pressed a button for it on this machine."""
    from engine.conditions import ready

    if settings.kind.program and not context.local:
        raise UserError(
            "A program cannot be started from another computer.",
            "The app is open to the network (--listen), and the program would run with the rights of the person "
            "who started it.",
            "Start the app without --listen, on the computer that it runs on.",
        )
    ready.allow(settings.kind, settings.resolved())
    return settings


def missing_weights(settings: ConditionSettings) -> list[Any]:
    """Return which weights are missing, and the button that downloads them."""
    if not settings.kind.models:
        return ["", gr.Button(visible=False)]
    from engine.conditions import weights

    try:
        missing = weights.missing(settings.kind, settings.resolved())
    except UserError as error:
        return [note(f"{error.what} {error.why} {error.try_this}", "warning"), gr.Button(visible=False)]
    text = "".join(note(f"Not downloaded yet: {entry.sentence}.", "warning") for entry in missing)
    return [text or note("The model is downloaded.", "good"), gr.Button(visible=bool(missing))]


def _own_type(context: AppContext, dataset: str | None) -> Any:
    """Return the type of the maps that a dataset has, or the first type that can make maps."""
    from engine.data.dataset import Dataset

    if not dataset or dataset not in context.files()[0]:
        return gr.skip()
    spec = Dataset.open(context.workspace.dataset_folder(dataset)).condition
    return spec.type if spec else next(kind.name for kind in registry.all() if kind.extract)


def _result(view: View) -> str:
    result = view.results.get(KIND)
    if result is None:
        return ""
    rows = "".join(f"<li><b>{escape(name)}</b> {escape(what)}</li>" for name, what in result.facts)
    problems = f"<ul class='problems'>{rows}</ul>" if rows else ""
    return note(result.note, "good") + problems + after_html(view, "obey")
