"""Dataset: the images to train on. Reads the user's images, or draws a demo set, and shows its contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from engine.demo.sets import DEFAULT_COUNT, DEMO_SETS
from ui.dataset import captions_panel, catalog_panel, check_panel, contents_panel, crops_panel, import_panel
from ui.dataset.import_jobs import KIND
from ui.page.choices import dataset_list
from ui.page.context import AppContext
from ui.page.jobs import demo_set_job, job_controls
from ui.page.live import Live

PANELS: tuple[tuple[str, str, Callable[[AppContext, Live, Any], None]], ...] = (
    ("Check", "check", check_panel.build),
    ("Captions", "captions", captions_panel.build),
    ("Crops", "crops", crops_panel.build),
)
"""Title, id and ``build(context, live, chosen)`` of the panels that work on the selected dataset."""


def build(context: AppContext, live: Live) -> None:
    """Build the tab."""
    with gr.Accordion("New dataset", open=True, elem_id="dataset-sources") as sources, gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=420):
            import_panel.build(context, live)
        with gr.Column(scale=2, min_width=320):
            _demo_sets(context, live)
            catalog_panel.build(context, live)
    # It folds once there is a dataset. After that it stays as the user leaves it.
    live.outputs([sources], lambda view: bool(view.datasets), lambda view: [gr.Accordion(open=not view.datasets)])
    progress = gr.HTML(elem_id="dataset-progress")
    cancel = gr.Button("Cancel", elem_id="dataset-cancel", visible=False)
    job_controls(live, KIND, [], cancel, progress)
    import_panel.build_result(live)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            chosen = dataset_list(live, "Dataset", "dataset-list")
        with gr.Column(scale=3, min_width=420):
            summary, page = gr.HTML(elem_id="dataset-summary"), gr.State(0)
    with gr.Tabs(elem_id="dataset-views"):  # holds tabs only: any other component between them would shift their titles
        contents_panel.build(context, live, chosen, summary, page)
        for title, name, panel in PANELS:
            with gr.Tab(title, id=name, elem_id=f"dataset-{name}"):
                panel(context, live, chosen)


def _demo_sets(context: AppContext, live: Live) -> None:
    with gr.Column(elem_classes="card"):
        gr.Markdown("### Or a demo set\nDrawn in seconds, with captions and condition maps.")
        kind = gr.Radio(
            [(entry.title, entry.name) for entry in DEMO_SETS],
            value=DEMO_SETS[0].name,
            label="What it shows",
            elem_id="demo-kind",
        )
        count = gr.Number(DEFAULT_COUNT, label="Images", precision=0, elem_id="demo-count")
        make = gr.Button("Make the demo set", elem_id="demo-make")

    def start(kind: str, count: int) -> None:
        context.start_job(KIND, "Making the demo set", demo_set_job(context, kind, int(count or 0)))

    live.on(make.click, start, [kind, count], show_progress="full")
