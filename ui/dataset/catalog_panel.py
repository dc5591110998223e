"""Sets of images to download, for people without images of their own: what each is for, and one click to get it."""

from __future__ import annotations

from html import escape

import gradio as gr

from engine.data.dataset_catalog import CatalogDataset, catalog_datasets, dataset_named, download_dataset, state_of
from engine.jobs.control import Token
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import Outcome
from engine.machine.units import counted, format_bytes
from engine.queue.data_jobs import import_progress
from engine.queue.download_jobs import DownloadDataset
from engine.workspace.paths import Workspace
from ui.dataset.import_jobs import KIND, show_result
from ui.page.context import AppContext
from ui.page.jobs import queue_button
from ui.page.live import Live
from ui.page.messages import note


def build(context: AppContext, live: Live) -> None:
    """Build the folded panel."""
    offered = catalog_datasets()
    with gr.Accordion("Or download a set of images", open=False, elem_id="offered"):
        table = gr.HTML(elem_id="offered-list")
        chosen = gr.Dropdown(
            [(one.title, one.name) for one in offered],
            value=offered[0].name,
            label="Set to download",
            info="From huggingface.co. An interrupted download continues where it stopped.",
            elem_id="offered-choice",
        )
        about = gr.HTML(about_set(offered[0]), elem_id="offered-about")
        download = gr.Button("Download and read it", elem_id="offered-download")
        add = queue_button(live, download)

    def start(name: str) -> None:
        one = dataset_named(name)
        context.start_job(KIND, f"Downloading {one.name}", get_job(context, one), DownloadDataset(name=one.name))

    described = {one.name: about_set(one) for one in offered}
    live.on(chosen.change, lambda name: described[name], [chosen], [about])
    live.on([download.click, add.click], start, [chosen], show_progress="full")
    live.outputs(
        [table],
        lambda view: (view.datasets, view.snapshot.alive),
        lambda view: [list_of_sets(context.workspace, offered)],
    )


def list_of_sets(workspace: Workspace, offered: list[CatalogDataset]) -> str:
    """The sets on offer as HTML, and whether each is there."""
    rows = []
    for one in offered:
        state = state_of(workspace, one)
        partly = state.kind == "partly downloaded"
        part = f", {format_bytes(state.have)} of about {one.download_mb} MB" if partly else ""
        rows.append(f"<li><b>{escape(one.title)}</b>: {state.kind}{part}</li>")
    return f"<ul class='reasons'>{''.join(rows)}</ul>"


def about_set(one: CatalogDataset) -> str:
    """What a set teaches, what it holds, and its licence, as HTML."""
    maps = "with control images" if one.maps else "without control images: the Conditions tab makes them"
    holds = f"{counted(one.images, 'image')} with captions, {maps}. The download is about {one.download_mb} MB."
    return note(one.use) + note(holds) + note(f"Licence: {one.licence}. {one.licence_means}")


def get_job(context: AppContext, one: CatalogDataset) -> Work:
    """Return the job that downloads a set, reads it, and selects it on every tab."""

    def work(token: Token, emit: Emit) -> Outcome:
        show_result(context, download_dataset(context.workspace, one, token, import_progress(emit)), one.id, emit)
        return "completed"

    return work
