"""Conditions: what the net will obey. A live preview of one picture, then the maps of all."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.conditions import registry
from ui import tasks
from ui.choices import dataset_list
from ui.context import AppContext
from ui.form import parameter_widget
from ui.live import Live
from ui.messages import job_progress, note
from ui.view import View

KIND = "conditions"
PREVIEW_SIDE = 768  # pixels; a preview has to answer at once


def build(context: AppContext, live: Live) -> None:
    """Everything on the tab."""
    types = registry.all()
    places = [(kind.name, parameter.name) for kind in types for parameter in kind.parameters]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            chosen = dataset_list(live, "Dataset", "conditions-dataset")
            kind = gr.Radio(
                [(entry.title, entry.name) for entry in types],
                value=types[0].name,
                label="The net will obey",
                elem_id="condition-type",
            )
            teaches = gr.HTML(_teaches(types[0].name), elem_id="condition-teaches")
            groups, widgets = _parameters(types)
            make = gr.Button("Make all maps", variant="primary", elem_id="maps-make")
            cancel = gr.Button("Cancel", visible=False, elem_id="maps-cancel")
            progress = gr.HTML(elem_id="maps-progress")
            result = gr.HTML(elem_id="maps-result")
        with gr.Column(scale=3, min_width=420):
            slider = gr.ImageSlider(
                label="Picture and map", type="filepath", interactive=False, height=470, elem_id="condition-preview",
                buttons=["fullscreen"], show_label=False, format="png",
            )  # fmt: skip
            number = gr.State(0)
            about = gr.HTML(elem_id="condition-about")
            with gr.Row():
                back = gr.Button("‹ Earlier picture", size="sm")
                forth = gr.Button("Next picture ›", size="sm", elem_id="condition-next")

    def values_of(name: str, raw: tuple[Any, ...]) -> dict[str, Any]:
        return {parameter: value for (owner, parameter), value in zip(places, raw, strict=True) if owner == name}

    def preview(dataset: str | None, name: str, at: int, *raw: Any) -> tuple[Any, str]:
        return _preview(context, dataset, name, at, values_of(name, raw))

    def turn(by: int) -> Any:
        def show(dataset: str | None, name: str, at: int, *raw: Any) -> tuple[Any, str, int]:
            return *preview(dataset, name, max(0, at + by), *raw), max(0, at + by)

        return context.guarded(show)

    def start(dataset: str | None, name: str, *raw: Any) -> None:
        work = tasks.make_maps(context, dataset or "", name, values_of(name, raw))
        context.start_job(KIND, f"Making maps of {dataset}", work)

    inputs = [chosen, kind, number, *widgets]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    kind.change(
        lambda name: [
            _teaches(name),
            gr.Button(_make_title(name)),
            *(gr.Group(visible=entry.name == name) for entry in types if entry.parameters),
        ],
        [kind],
        [teaches, make, *groups],
        **quiet,
    )
    chosen.change(context.guarded(lambda name: _own_type(context, name)), [chosen], [kind], **quiet)
    triggers = [chosen.change, kind.change, *(widget.change for widget in widgets)]
    gr.on(triggers, context.guarded(preview), inputs, [slider, about], trigger_mode="always_last", **quiet)
    back.click(turn(-1), inputs, [slider, about, number], **quiet)
    forth.click(turn(1), inputs, [slider, about, number], **quiet)
    live.after(make.click(context.guarded(start), [chosen, kind, *widgets], **quiet))
    live.after(cancel.click(live.asking("cancel"), **quiet))
    live.part([make, cancel, progress], _job_key, _job)
    live.part([result], lambda view: view.results.get(KIND), lambda view: [_result(view)])


def _parameters(types: list[registry.ConditionType]) -> tuple[list[Any], list[Any]]:
    """One group of widgets a type (only the first is seen at the start), and all widgets in order."""
    groups, widgets = [], []
    for place, kind in enumerate(types):
        if not kind.parameters:
            continue
        with gr.Group(visible=place == 0) as group:
            for parameter in kind.parameters:
                widgets.append(parameter_widget(parameter, f"param-{kind.name}-{parameter.name}"))
        groups.append(group)
    return groups, widgets


def _own_type(context: AppContext, dataset: str | None) -> Any:
    """The type that the dataset's maps are of already; for one without maps the first that makes them."""
    from engine.data.dataset import Dataset

    if not dataset or dataset not in context.files()[0]:
        return gr.skip()
    spec = Dataset.open(context.workspace.dataset_folder(dataset)).condition
    return spec.type if spec else next(kind.name for kind in registry.all() if kind.extract)


def _make_title(name: str) -> str:
    return "Make all maps" if registry.get(name).extract else "Use these maps"


def _teaches(name: str) -> str:
    return note(registry.get(name).teaches)


def _preview(context: AppContext, dataset_name: str | None, name: str, at: int, values: dict[str, Any]) -> Any:
    """The picture and its map side by side, and a line about them."""
    import numpy as np

    from engine.conditions.coverage import coverage
    from engine.data.dataset import Dataset
    from engine.data.images import load_rgb

    if not dataset_name or dataset_name not in context.files()[0]:
        return None, note("Choose a dataset on the Dataset tab first.")
    dataset = Dataset.open(context.workspace.dataset_folder(dataset_name))
    samples = dataset.samples(at % max(1, dataset.count()), 1)
    if not samples:
        return None, note("This dataset has no pictures.")
    sample, kind = samples[0], registry.get(name)
    picture = load_rgb(sample.image)
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    if kind.extract is None:
        if sample.condition is None:
            return None, note("This dataset came without maps of its own: choose a type that makes them.", "warning")
        made = np.asarray(load_rgb(sample.condition).resize(picture.size))
    else:
        made = kind.extractor(np.asarray(picture), **registry.resolve_parameters(name, values))
    seen = coverage(made)
    words = f"<p class='hint'>{escape(sample.key)} · {seen['share']:.0%} of the map is not black</p>"
    return (np.asarray(picture), made), words + note(seen["warning"], "warning")


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
