"""What a dataset holds, a page at a time: images, a table, and what could not be used."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from ui.page.choices import pick_dataset
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import counted, note, problem_list
from ui.page.view import View

JOBS = ("dataset", "doctor", "captions", "conditions")  # what changes a dataset
PAGE = 24
PROBLEMS_SHOWN = 50
EMPTY = "No dataset yet. Read images of yours, or make the demo set."


def build(context: AppContext, live: Live, chosen: Any, summary: Any, number: Any) -> None:
    """Gallery, table and problems of the chosen dataset; inside a ``gr.Tabs``.

    Args:
        summary: an HTML above them. number: the State of the page, outside the ``gr.Tabs``.
    """
    with gr.Tab("Images", id="pictures"):
        gallery = gr.Gallery(
            label="Images",
            columns=6,
            height="auto",
            object_fit="contain",
            buttons=["fullscreen"],
            elem_id="dataset-pictures",
            interactive=False,
            show_label=False,
            visible=False,
        )
        pagers = [_pager("dataset")]
        changed = gr.State("")  # in a tab: between the tabs it would shift their titles
    with gr.Tab("Table", id="table"):
        table = gr.HTML(elem_id="dataset-table")
        pagers.append(_pager("dataset-table"))
    with gr.Tab("Problems", id="problems"):
        problems = gr.HTML(elem_id="dataset-problems")

    def show(name: str | None, page: int) -> list[Any]:
        name = pick_dataset(context, name)
        if not name:
            nothing = [note(EMPTY), gr.Gallery([], visible=False), "", "", 0]
            return [*nothing, *[gr.Row(visible=False), ""] * len(pagers)]
        return _page(context, name, page, len(pagers))

    shown = [
        summary,
        gallery,
        table,
        problems,
        number,
        *(part for row, where, *_ in pagers for part in (row, where)),
    ]
    chosen.change(context.catch_errors(lambda name: show(name, 0)), [chosen], shown, **NO_PROGRESS)
    for _, _, back, forth in pagers:
        back.click(
            context.catch_errors(lambda name, page: show(name, page - 1)), [chosen, number], shown, **NO_PROGRESS
        )
        forth.click(
            context.catch_errors(lambda name, page: show(name, page + 1)), [chosen, number], shown, **NO_PROGRESS
        )
    changed.change(context.catch_errors(show), [chosen, number], shown, **NO_PROGRESS)
    live.outputs([changed], _changes, lambda view: [_changes(view)])
    live.outputs(
        shown,
        lambda view: (view.datasets, view.focus_dataset),
        lambda view: show(view.focus_dataset or next(iter(view.datasets), None), 0),
    )


def _pager(prefix: str) -> tuple[Any, Any, Any, Any]:
    with gr.Row(elem_classes="pager", visible=False) as row:
        back = gr.Button("‹ Earlier", size="sm", elem_id=f"{prefix}-back")
        where = gr.HTML(elem_id=f"{prefix}-page")
        forth = gr.Button("Later ›", size="sm", elem_id=f"{prefix}-forth")
    return row, where, back, forth


def _changes(view: View) -> str:
    """Another text when the same dataset may hold something else: a job has ended, or an operation was done."""
    version = view.snapshot.version if view.snapshot.kind in JOBS and not view.snapshot.alive else 0
    return f"{version} {[view.results[kind].number for kind in JOBS if kind in view.results]}"


def _page(context: AppContext, name: str, page: int, pagers: int) -> list[Any]:
    from engine.data.dataset import Dataset
    from engine.disk.images import thumbnail
    from engine.errors import UserError

    dataset = Dataset.open(context.workspace.dataset_folder(name))
    shown = dataset.page(page, PAGE)
    images = []
    for sample in shown.samples:
        try:
            path = thumbnail(sample.image, context.workspace.thumbnails, 256, sample.digest or None)
        except UserError:
            continue  # deleted since the scan; the next scan lists it under the problems
        images.append((str(path), sample.caption or sample.key))
    bad = dataset.problem_count()
    where = f"<p class='hint'>page {shown.number + 1:,} of {shown.pages:,}</p>"
    listed = problem_list(dataset.problems(0, PROBLEMS_SHOWN), bad) or note("Every file could be used.", "good")
    return [
        _facts(dataset, shown.total, bad),
        gr.Gallery(images, visible=True),
        _table(shown.samples),
        listed,
        shown.number,
        *[gr.Row(visible=shown.pages > 1), where] * pagers,
    ]


def _facts(dataset: Any, total: int, bad: int) -> str:
    from engine.data.scan import LAYOUTS

    maps = dataset.count(ready=True) if dataset.condition else 0
    facts = [
        f"<b>{counted(total, 'image', 'images')}</b> ({escape(LAYOUTS.get(dataset.layout, dataset.layout))})",
        f"{maps:,} with a condition map" if maps else "no condition maps yet: make them on the Conditions tab",
        f"from {escape(dataset.origin or str(dataset.source))}",
    ]
    text = f"<p class='facts'>{'<br>'.join(facts)}</p>"
    return text + (note(f"{counted(bad, 'file', 'files')} could not be used; see Problems.", "warning") if bad else "")


def _table(samples: list[Any]) -> str:
    """One row an image of the page."""
    rows = [
        f"<tr><td>{escape(s.key)}</td><td class='number'>{s.width} × {s.height}</td>"
        f"<td>{escape(s.caption) or '<i>no caption</i>'}</td><td>{escape(s.source or 'your file')}</td>"
        f"<td><code>{escape(s.digest[:6])}</code></td><td>{escape(s.status)}</td></tr>"
        for s in samples
    ]
    head = "".join(f"<th>{title}</th>" for title in ("File", "Size", "Caption", "From", "Hash", "Status"))
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<div class='wide'><table class='list'>{body}</table></div>"
