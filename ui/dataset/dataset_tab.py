"""Dataset: which images. Whatever the user has, or a demo set that is drawn on the spot; and what it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from engine.demo.sets import DEFAULT_COUNT, DEMO_SETS
from ui.dataset import captions_panel, contents_panel, crops_panel, check_panel, import_panel
from ui.dataset.import_jobs import KIND
from ui.page.choices import dataset_list
from ui.page.context import AppContext
from ui.page.jobs import demo_set_job
from ui.page.live import Live
from ui.page.messages import job_progress

# Title, id and ``build(context, live, chosen)`` of what can be done with a dataset, one line each.
PANELS: tuple[tuple[str, str, Callable[[AppContext, Live, Any], None]], ...] = (
    ("Check", "check", check_panel.build),
    ("Captions", "captions", captions_panel.build),
    ("Crops", "crops", crops_panel.build),
)


def build(context: AppContext, live: Live) -> None:
    """Everything on the tab."""
    with gr.Accordion("New dataset", open=True, elem_id="dataset-sources") as sources, gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=420):
            import_panel.build(context, live)
        with gr.Column(scale=2, min_width=320):
            _demo_sets(context, live)
    # folded once there is something to work on; later nobody's folding is touched
    live.outputs([sources], lambda view: bool(view.datasets), lambda view: [gr.Accordion(open=not view.datasets)])
    _progress(live)
    import_panel.outcome(live)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            chosen = dataset_list(live, "Dataset", "dataset-list")
        with gr.Column(scale=3, min_width=420):
            summary, page = gr.HTML(elem_id="dataset-summary"), gr.State(0)
    with gr.Tabs(elem_id="dataset-views"):  # tabs and nothing else: anything between them shifts their titles
        contents_panel.build(context, live, chosen, summary, page)
        for title, name, panel in PANELS:
            with gr.Tab(title, id=name, elem_id=f"dataset-{name}"):
                panel(context, live, chosen)


def _progress(live: Live) -> None:
    progress = gr.HTML(elem_id="dataset-progress")
    cancel = gr.Button("Cancel", elem_id="dataset-cancel", visible=False)
    live.refresh_after(cancel.click(live.job_command("cancel"), api_visibility="private"))
    live.outputs(
        [progress, cancel],
        lambda view: view.snapshot if view.snapshot.kind == KIND else None,
        lambda view: [
            job_progress(view.snapshot) if view.snapshot.kind == KIND else "",
            gr.Button(visible=view.snapshot.kind == KIND and view.snapshot.alive),
        ],
    )


def _demo_sets(context: AppContext, live: Live) -> None:
    with gr.Column(elem_classes="card"):
        gr.Markdown("### Or a demo set\nDrawn here in seconds, with its condition maps.")
        kind = gr.Radio(
            [(entry.title, entry.name) for entry in DEMO_SETS],
            value=DEMO_SETS[0].name,
            label="What is drawn",
            elem_id="demo-kind",
        )
        count = gr.Number(DEFAULT_COUNT, label="Images", precision=0, elem_id="demo-count")
        make = gr.Button("Make the demo set", elem_id="demo-make")

    def start(kind: str, count: int) -> None:
        context.start_job(KIND, "Making the demo set", demo_set_job(context, kind, int(count or 0)))

    live.refresh_after(
        make.click(context.catch_errors(start, has_outputs=False), [kind, count], api_visibility="private")
    )
