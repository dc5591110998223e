"""What a dataset holds, page by page: images, a table, and the files that could not be used."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.jobs.snapshot import JobKind
from engine.machine.units import counted
from ui.page.choices import pick_dataset
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note, problem_list
from ui.page.view import View

JOBS = (JobKind.DATASET, JobKind.CHECK, JobKind.CAPTIONS, JobKind.CONDITIONS)
"""Kinds of jobs that change a dataset."""
PAGE = 24
PROBLEMS_SHOWN = 50
EMPTY = "No dataset yet. Read a folder of your images, or make a demo set."


def build(context: AppContext, live: Live, chosen: Any, summary: Any, number: Any) -> None:
    """Build gallery, table and problems of the selected dataset, inside a ``gr.Tabs``.

    Args:
        summary: an HTML component above them.
        number: a State with the number of the page, outside the ``gr.Tabs``.
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
        changed = gr.State("")  # inside a tab: between the tabs it would shift their titles
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
        return render_page(context, name, page, len(pagers))

    shown = [
        summary,
        gallery,
        table,
        problems,
        number,
        *(component for row, where, *_ in pagers for component in (row, where)),
    ]
    live.on(chosen.change, lambda name: show(name, 0), [chosen], shown)
    for _, _, back, forth in pagers:
        live.on(back.click, lambda name, page: show(name, page - 1), [chosen, number], shown)
        live.on(forth.click, lambda name, page: show(name, page + 1), [chosen, number], shown)
    live.on(changed.change, show, [chosen, number], shown)
    live.outputs([changed], _changes, lambda view: [_changes(view)])
    live.outputs(
        shown,
        lambda view: (view.datasets, view.focus_dataset),
        lambda view: show(view.focus_dataset or next(iter(view.datasets), None), 0),
    )


def _pager(prefix: str) -> tuple[Any, Any, Any, Any]:
    with gr.Row(elem_classes="pager", visible=False) as row:
        back = gr.Button("‹ Previous", size="sm", elem_id=f"{prefix}-back")
        where = gr.HTML(elem_id=f"{prefix}-page")
        forth = gr.Button("Next ›", size="sm", elem_id=f"{prefix}-forth")
    return row, where, back, forth


def _changes(view: View) -> str:
    """Return a text that changes when the selected dataset may have changed."""
    version = view.snapshot.version if view.snapshot.kind in JOBS and not view.snapshot.alive else 0
    return f"{version} {[view.results[kind].number for kind in JOBS if kind in view.results]}"


def render_page(context: AppContext, name: str, page: int, pagers: int) -> list[Any]:
    """Render one page of images: the pagers, the gallery and the list of problems."""
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
            continue  # deleted since the scan; the next one lists it under Problems
        images.append((str(path), sample.caption or sample.key))
    bad = dataset.problem_count()
    where = f"<p class='hint'>page {shown.number + 1:,} of {shown.pages:,}</p>"
    listed = problem_list(dataset.problems(0, PROBLEMS_SHOWN), bad) or note("All files could be used.", "good")
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
        f"<b>{counted(total, 'image')}</b> ({escape(LAYOUTS.get(dataset.layout, dataset.layout))})",
        f"{maps:,} with a condition map" if maps else "no condition maps yet (make them on the Conditions tab)",
        f"from {escape(dataset.origin or str(dataset.source))}",
    ]
    text = f"<p class='facts'>{'<br>'.join(facts)}</p>"
    return text + (note(f"{counted(bad, 'file')} could not be used: see Problems.", "warning") if bad else "")


def _table(samples: list[Any]) -> str:
    """Return a table with one row for each image of the page; with their loss weights, if they have any."""
    weighted = any(s.weight != 1 for s in samples)
    rows = [
        f"<tr><td>{escape(s.key)}</td><td class='number'>{s.width} × {s.height}</td>"
        f"<td>{escape(s.caption) or '<i>no caption</i>'}</td><td>{escape(s.source or 'your file')}</td>"
        f"<td><code>{escape(s.digest[:6])}</code></td><td>{escape(s.status)}</td>"
        + (f"<td class='number'>{s.weight:g}</td></tr>" if weighted else "</tr>")
        for s in samples
    ]
    titles = ["File", "Size", "Caption", "Source", "Hash", "Status", *(["Loss weight"] if weighted else [])]
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<div class='wide'><table class='list'>{body}</table></div>"
