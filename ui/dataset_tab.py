"""Dataset: which pictures. A folder of the user's, or a demo set that is drawn on the spot."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.demo.sets import DEFAULT_COUNT, DEMO_SETS
from ui import captions_panel, crops_panel, folders, tasks
from ui.choices import dataset_list
from ui.context import AppContext
from ui.demo import draw_demo_set
from ui.live import Live
from ui.messages import counted, job_progress, note, problem_list

KIND = "dataset"
PAGE = 24
PROBLEMS_SHOWN = 50


def build(context: AppContext, live: Live) -> None:
    """Everything on the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            _own_pictures(context, live)
            _demo_sets(context, live)
            progress = gr.HTML(elem_id="dataset-progress")
            cancel = gr.Button("Cancel", elem_id="dataset-cancel", visible=False)
            live.after(cancel.click(live.asking("cancel"), api_visibility="private"))
            live.part(
                [progress, cancel],
                lambda view: view.snapshot if view.snapshot.kind == KIND else None,
                lambda view: [
                    job_progress(view.snapshot) if view.snapshot.kind == KIND else "",
                    gr.Button(visible=view.snapshot.kind == KIND and view.snapshot.alive),
                ],
            )
        with gr.Column(scale=3, min_width=420):
            _contents(context, live)
    captions_panel.build(context, live)
    crops_panel.build(context, live)


def _own_pictures(context: AppContext, live: Live) -> None:
    with gr.Column(elem_classes="card"):
        gr.Markdown("### Your pictures\nYour files are only read, never changed.")
        with gr.Row(equal_height=True, elem_classes="tight"):
            folder = gr.Textbox(
                label="Folder", placeholder="/home/me/pictures", max_lines=1, scale=4, elem_id="dataset-folder"
            )
            browse = gr.Button(
                "Browse …", scale=1, min_width=96, visible=context.local and folders.dialog_possible(), elem_id="browse"
            )
        name = gr.Textbox(
            label="Name of the dataset",
            info="Captions are read from a text file beside each picture, or from metadata.jsonl.",
            max_lines=1,
            elem_id="dataset-name",
        )
        read = gr.Button("Read this folder", variant="primary", elem_id="dataset-read")

    def start(folder: str, name: str) -> None:
        folder = folder.strip().strip('"')
        name = tasks.dataset_name_for(name or folder) or "pictures"
        context.start_job(KIND, f"Reading {name}", tasks.read_folder(context, folder, name))

    def pick(current: str) -> str:
        return folders.ask_folder() or current

    browse.click(context.guarded(pick), [folder], [folder], api_visibility="private")
    folder.change(tasks.dataset_name_for, [folder], [name], show_progress="hidden", api_visibility="private")
    live.after(read.click(context.guarded(start), [folder, name], api_visibility="private"))


def _demo_sets(context: AppContext, live: Live) -> None:
    with gr.Column(elem_classes="card"):
        gr.Markdown("### Or a demo set\nDrawn here in seconds, with its condition maps.")
        kind = gr.Radio(
            [(entry.title, entry.name) for entry in DEMO_SETS],
            value=DEMO_SETS[0].name,
            label="What is drawn",
            elem_id="demo-kind",
        )
        count = gr.Number(DEFAULT_COUNT, label="Pictures", precision=0, elem_id="demo-count")
        make = gr.Button("Make the demo set", elem_id="demo-make")

    def start(kind: str, count: int) -> None:
        context.start_job(KIND, "Making the demo set", draw_demo_set(context, kind, int(count or 0)))

    live.after(make.click(context.guarded(start), [kind, count], api_visibility="private"))


def _contents(context: AppContext, live: Live) -> None:
    chosen = dataset_list(live, "Dataset", "dataset-list")
    summary = gr.HTML(elem_id="dataset-summary")
    number = gr.State(0)
    gallery = gr.Gallery(
        label="Pictures",
        columns=6,
        height="auto",
        object_fit="contain",
        buttons=["fullscreen"],
        elem_id="dataset-pictures",
        interactive=False,
        show_label=False,
        visible=False,
    )
    with gr.Row(elem_classes="pager", visible=False) as pager:
        back = gr.Button("‹ Earlier", size="sm", elem_id="dataset-back")
        where = gr.HTML(elem_id="dataset-page")
        forth = gr.Button("Later ›", size="sm", elem_id="dataset-forth")
    problems = gr.HTML(elem_id="dataset-problems")

    def show(name: str | None, page: int) -> tuple[Any, ...]:
        if not name or name not in context.files()[0]:
            empty = note("No dataset yet. Read a folder of yours, or make the demo set.")
            return empty, gr.Gallery([], visible=False), "", "", 0, gr.Row(visible=False)
        return _page(context, name, page)

    shown = [summary, gallery, where, problems, number, pager]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    first = context.guarded(lambda name: show(name, 0))
    chosen.change(first, [chosen], shown, **quiet)
    back.click(context.guarded(lambda name, page: show(name, page - 1)), [chosen, number], shown, **quiet)
    forth.click(context.guarded(lambda name, page: show(name, page + 1)), [chosen, number], shown, **quiet)
    live.part(
        shown,
        lambda view: (view.datasets, view.focus_dataset, _ended(view.snapshot)),
        lambda view: list(show(view.focus_dataset or next(iter(view.datasets), None), 0)),
    )


def _ended(snapshot: Any) -> int:
    """Changes when a job of this tab has ended: the same dataset may hold other pictures now."""
    return snapshot.version if snapshot.kind == KIND and not snapshot.alive else 0


def _page(context: AppContext, name: str, page: int) -> tuple[Any, ...]:
    from engine.data.dataset import Dataset
    from engine.data.images import thumbnail
    from engine.data.scan import LAYOUTS
    from engine.errors import UserError

    dataset = Dataset.open(context.workspace.dataset_folder(name))
    shown = dataset.page(page, PAGE)
    pictures = []
    for sample in shown.samples:
        try:
            path = thumbnail(sample.image, context.workspace.thumbnails, 256, sample.digest or None)
        except UserError:
            continue  # deleted since the scan; the next scan lists it under the problems
        pictures.append((str(path), sample.caption or sample.key))
    problems = dataset.problems(0, PROBLEMS_SHOWN + 1)
    maps = dataset.count(ready=True) if dataset.condition else 0
    facts = [
        f"<b>{counted(shown.total, 'picture', 'pictures')}</b> ({escape(LAYOUTS.get(dataset.layout, dataset.layout))})",
        f"{maps:,} with a condition map" if maps else "no condition maps yet: make them on the next tab",
        f"from {escape(str(dataset.source))}",
    ]
    text = f"<p class='facts'>{'<br>'.join(facts)}</p>"
    if problems:
        text += note(f"{counted(len(dataset.problems()), 'file', 'files')} could not be used; see below.", "warning")
    where = f"<p class='hint'>page {shown.number + 1:,} of {shown.pages:,}</p>"
    listed = problem_list(problems[:PROBLEMS_SHOWN], len(dataset.problems()) if problems else 0)
    return text, gr.Gallery(pictures, visible=True), where, listed, shown.number, gr.Row(visible=shown.pages > 1)
