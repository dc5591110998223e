"""Where the images come from: a box for a folder, list, archive or Hugging Face id, and the result of reading it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from engine.data.import_config import ImportConfig, parse_import, text_of_roles
from engine.errors import UserError
from engine.queue.data_jobs import ImportDataset
from ui.dataset import folder_dialog
from ui.dataset.import_jobs import KIND, import_images, suggested_name
from ui.dataset.question_panel import QuestionPanel
from ui.page.context import AppContext
from ui.page.form import describe, widget
from ui.page.jobs import queue_button
from ui.page.live import Live
from ui.page.messages import note

INFO = (
    "A folder of images, or of images with their maps. Also a list of image addresses (.parquet, .csv), .tar and "
    ".zip archives, parquet files, a dataset config of another trainer, or a Hugging Face id such as owner/name. "
    "Paste the path here, or drop it."
)
LAYOUTS = (
    "<details class='hint'><summary>Folder layouts that work</summary><ul><li>images, with captions in text files "
    "of the same name (<code>cat.jpg</code>, <code>cat.txt</code>), in a folder <code>captions</code> or in one "
    "list</li><li>pairs: folders such as <code>images</code> and <code>conditioning_images</code> with files of the "
    "same names, or <code>cat.jpg</code> beside <code>cat_canny.png</code></li><li>images with a list "
    "(<code>metadata.jsonl</code>, <code>.csv</code>, <code>.json</code>), also in "
    "<code>train/</code></li><li>folders made for kohya's scripts, by img2dataset or by the Hugging Face datasets "
    "library</li><li>a dataset config of kohya's sd-scripts, OneTrainer, SimpleTuner, musubi-tuner, ai-toolkit or "
    "diffusion-pipe: the path of the config, or the folder that holds it and the image folders</li></ul></details>"
)


def build(context: AppContext, live: Live) -> None:
    """Build the card with the box, its options and the button."""
    with gr.Column(elem_classes="card"):
        gr.Markdown("### Your images\nYour files are only read, never changed.")
        with gr.Row(elem_classes="beside"):
            place = gr.Textbox(
                label="Folder, list or Hugging Face id",
                placeholder="/home/me/pictures",
                info=INFO,
                max_lines=1,
                scale=4,
                elem_id="dataset-folder",
            )
            browse = gr.Button("Browse …", scale=0, min_width=110, visible=context.local, elem_id="browse")
        found = gr.HTML(LAYOUTS, elem_id="dataset-found")
        with gr.Row(elem_classes="beside"):
            name = gr.Textbox(label="Name of the dataset", max_lines=1, scale=3, elem_id="dataset-name")
            read = gr.Button("Read the images", variant="primary", scale=2, min_width=180, elem_id="dataset-read")
            add = queue_button(live, read)
        with gr.Accordion("Options for lists and archives", open=False, elem_id="import-options"):
            settings = import_options()

        asking = QuestionPanel(context, live)

    def config_of(values: Sequence[Any], **roles: str) -> ImportConfig:
        given = {key: clean_value(key, raw) for key, raw in zip(settings, values, strict=True) if raw is not None}
        return parse_import(given | roles)

    def begin(place: str, name: str, config: ImportConfig) -> None:
        title = f"Reading {name.strip() or suggested_name(place) or 'images'}"
        queued = ImportDataset(place=place, name=name.strip() or suggested_name(place), options=config)
        context.start_job(KIND, title, import_images(context, place, name, config), queued)

    def start(place: str, name: str, *values: Any) -> list[Any]:
        from engine.data.before_import import question

        config = config_of(values)
        unclear = None if config.roles or known(context, place, name) else question(place, config)
        if unclear is not None:
            return asking.show(place, unclear)
        begin(place, name, config)
        return asking.hidden()

    def start_with(roles: dict[str, str], values: list[Any]) -> None:
        place, name, *rest = values
        begin(place, name, config_of(rest, roles=text_of_roles(roles)))

    def pick(current: str) -> str:
        return folder_dialog.ask_folder() or current

    picked = live.on(browse.click, pick, [place], [place], show_progress="full")
    for event in (place.blur, place.submit, picked.then):
        live.on(event, describe_place, [place], [found])
    suggestion = gr.State("")
    live.on(place.change, name_for, [place, name, suggestion], [name, suggestion], trigger_mode="always_last")
    inputs = [place, name, *settings.values()]
    live.on([read.click, add.click], start, inputs, asking.outputs, refresh=True, show_progress="full")
    asking.wire(live, place, start_with, inputs)


def name_for(place: str, name: str, before: str) -> tuple[str, str]:
    """Return the dataset's name and what is suggested for ``place``. A typed name stays.

    Args:
        before: the last suggestion.
    """
    suggested = suggested_name(place)
    return (suggested if name.strip() in ("", before) else name), suggested


def known(context: AppContext, place: str, name: str) -> bool:
    """Whether the dataset was read before with roles that the user chose."""
    from engine.data.dataset import Dataset

    folder = context.workspace.dataset_folder(name.strip() or suggested_name(place) or "pictures")
    return (folder / "dataset.json").exists() and bool(Dataset.open(folder).roles)


def build_result(live: Live) -> None:
    """Build the result of the last import. It stays visible when the card is folded."""
    result = gr.HTML(elem_id="dataset-outcome")
    live.outputs([result], lambda view: view.results.get(KIND), lambda view: [render_result(view.results.get(KIND))])


def import_options() -> dict[str, Any]:
    """Build the widgets of an import's settings, by name. Advanced ones are folded away."""
    fields = ImportConfig.model_fields
    made = {name: _widget(name) for name, field in fields.items() if not describe(field).advanced}
    with gr.Accordion("More options", open=False):
        return made | {name: _widget(name) for name, field in fields.items() if describe(field).advanced}


def _widget(name: str) -> Any:
    field = ImportConfig.model_fields[name]
    return widget(field, field.default, f"import-{name.replace('_', '-')}")


def clean_value(name: str, raw: Any) -> Any:
    """Turn a widget's value into the setting's type: number boxes return floats for integers, too."""
    kind = describe(ImportConfig.model_fields[name]).kind
    return int(raw) if kind == "integer" and float(raw).is_integer() else raw


def describe_place(place: str) -> str:
    """Return what the place holds, before it is read."""
    if not (place or "").strip():
        return LAYOUTS
    from engine.data.before_import import describe_source

    try:
        return note(f"Found: {describe_source(place)}.", "good")
    except UserError as error:
        return note(f"{error.what} {error.try_this}", "warning")


def render_result(result: Any) -> str:
    """Return what the last import has read, as HTML."""
    if result is None or not (result.note or result.facts):
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for _, sentence in result.facts)
    return note(result.note, "good") + (f"<ul class='problems'>{items}</ul>" if items else "")
