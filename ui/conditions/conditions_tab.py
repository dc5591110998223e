"""Conditions: what the net will obey. A live preview of one image, then the maps of all."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.conditions import registry
from engine.errors import UserError
from ui.conditions import condition_jobs, condition_preview
from ui.conditions.condition_form import ConditionForm, Wanted
from ui.conditions.condition_jobs import KIND
from ui.conditions.condition_preview import ConditionPreview
from ui.page.choices import dataset_list, open_dataset
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import job_progress, note
from ui.page.view import View


def build(context: AppContext, live: Live) -> None:
    """Everything on the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            chosen = dataset_list(live, "Dataset", "conditions-dataset")
            form = ConditionForm()
            lacking = gr.HTML(elem_id="condition-lacking")
            fetch = gr.Button("Download the weights", visible=False, elem_id="condition-download")
            make = gr.Button("Make all maps", variant="primary", elem_id="maps-make")
            cancel = gr.Button("Cancel", visible=False, elem_id="maps-cancel")
            progress = gr.HTML(elem_id="maps-progress")
            result = gr.HTML(elem_id="maps-result")
        with gr.Column(scale=3, min_width=420):
            panel = ConditionPreview()

    def live_preview(dataset: str | None, at: int, upload: str | None, *raw: Any) -> tuple[Any, str]:
        wanted = form.read(*raw)
        if not wanted.kind.live:
            return None, note("Press “Show the map” to see the one of this image.")
        return condition_preview.show(context, dataset, at, upload, wanted)

    def show(dataset: str | None, at: int, upload: str | None, *raw: Any) -> tuple[Any, str]:
        return condition_preview.show(context, dataset, at, upload, _allowed(context, form.read(*raw)))

    def turn(by: int) -> Any:
        def turned(dataset: str | None, at: int, _upload: str | None, *raw: Any) -> tuple[Any, ...]:
            place = max(0, at + by)
            return *live_preview(dataset, place, None, *raw), place, None

        return context.catch_errors(turned)

    def sheet(dataset: str | None, *raw: Any) -> tuple[Any, str]:
        return condition_preview.contact_sheet(context, dataset, _allowed(context, form.read(*raw)))

    def start(dataset: str | None, *raw: Any) -> None:
        wanted = _allowed(context, form.read(*raw))
        found = open_dataset(context, dataset).name
        work = condition_jobs.make_maps(context, found, wanted.kind.name, wanted.values, wanted.side, wanted.varied)
        context.start_job(KIND, f"Making maps of {found}", work)

    def download(*raw: Any) -> None:
        wanted = form.read(*raw)
        work = condition_jobs.download_weights(context, wanted.kind.name, wanted.resolved())
        context.start_job(KIND, f"Downloading the weights of {wanted.kind.title}", work)

    def need(*raw: Any) -> list[Any]:
        return _lacking(form.read(*raw))

    inputs = [chosen, panel.number, panel.upload, *form.inputs]
    shown = [panel.slider, panel.about]
    form.kind.change(
        lambda name: [_make_title(name), gr.Button(visible=not registry.get(name).live), *form.follow(name)],
        [form.kind],
        [make, panel.show, form.teaches, *form.groups],
        **NO_PROGRESS,
    )
    texts = [widget for widget in form.widgets if isinstance(widget, gr.Textbox)]
    gr.on(
        [form.kind.change, *(box.change for box in texts)],
        context.catch_errors(need),
        form.inputs,
        [lacking, fetch],
        **NO_PROGRESS,
    )
    chosen.change(context.catch_errors(lambda name: _own_type(context, name)), [chosen], [form.kind], **NO_PROGRESS)
    changes = [chosen.change, panel.upload.change, *(widget.change for widget in form.inputs)]
    gr.on(changes, context.catch_errors(live_preview), inputs, shown, trigger_mode="always_last", **NO_PROGRESS)
    panel.back.click(turn(-1), inputs, [*shown, panel.number, panel.upload], **NO_PROGRESS)
    panel.forth.click(turn(1), inputs, [*shown, panel.number, panel.upload], **NO_PROGRESS)
    panel.show.click(context.catch_errors(show), inputs, shown, api_visibility="private")
    panel.random.click(
        context.catch_errors(sheet), [chosen, *form.inputs], [panel.sheet, panel.about], api_visibility="private"
    )
    live.refresh_after(
        make.click(context.catch_errors(start, has_outputs=False), [chosen, *form.inputs], **NO_PROGRESS)
    )
    live.refresh_after(fetch.click(context.catch_errors(download, has_outputs=False), form.inputs, **NO_PROGRESS))
    live.refresh_after(cancel.click(live.job_command("cancel"), **NO_PROGRESS))
    live.outputs([make, cancel, progress], _job_key, _job)
    live.outputs([result], lambda view: view.results.get(KIND), lambda view: [_result(view)])


def _allowed(context: AppContext, wanted: Wanted) -> Wanted:
    """A press of a button says that the program that was typed may run, if the person sits at this machine."""
    from engine.conditions import ready

    if wanted.kind.program and not context.local:
        raise UserError(
            "A program cannot be started from another computer.",
            "This window is open to the network (--listen), and a program runs with the owner's rights.",
            "Start the app without --listen on its own machine.",
        )
    ready.allow(wanted.kind, wanted.resolved())
    return wanted


def _lacking(wanted: Wanted) -> list[Any]:
    """What weights are missing, and the button that fetches them."""
    if not wanted.kind.models:
        return ["", gr.Button(visible=False)]
    from engine.conditions import weights

    try:
        missing = weights.missing(wanted.kind, wanted.resolved())
    except UserError as error:
        return [note(f"{error.what} {error.why} {error.try_this}", "warning"), gr.Button(visible=False)]
    words = "".join(note(f"Not on this computer yet: {entry.sentence}.", "warning") for entry in missing)
    return [words or note("The weights are here.", "good"), gr.Button(visible=bool(missing))]


def _own_type(context: AppContext, dataset: str | None) -> Any:
    """The type that the dataset's maps are of already; for one without maps the first that makes them."""
    from engine.data.dataset import Dataset

    if not dataset or dataset not in context.files()[0]:
        return gr.skip()
    spec = Dataset.open(context.workspace.dataset_folder(dataset)).condition
    return spec.type if spec else next(kind.name for kind in registry.all() if kind.extract)


def _make_title(name: str) -> Any:
    return gr.Button("Make all maps" if registry.get(name).extract else "Use these maps")


def _job_key(view: View) -> Any:
    return view.snapshot if view.snapshot.kind == KIND else view.snapshot.alive


def _job(view: View) -> list[Any]:
    own = view.snapshot.kind == KIND and view.snapshot.alive
    words = job_progress(view.snapshot) if own else ""
    return [gr.Button(interactive=not view.snapshot.alive), gr.Button(visible=own), words]


def _result(view: View) -> str:
    result = view.results.get(KIND)
    if result is None:
        return ""
    rows = "".join(f"<li><b>{escape(name)}</b> {escape(what)}</li>" for name, what in result.facts)
    return note(result.note, "good") + (f"<ul class='problems'>{rows}</ul>" if rows else "")
