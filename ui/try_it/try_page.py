"""The Try it page: one image at a time, and checkpoints beside each other."""

from __future__ import annotations

import gradio as gr

from ui.page.context import AppContext
from ui.page.live import Live
from ui.try_it import compare_panel, try_tab


def build(context: AppContext, live: Live) -> None:
    """Both sections, each on a tab of its own."""
    with gr.Tabs(elem_id="try-tabs"):
        with gr.Tab("One image", id="one"):
            try_tab.build(context, live)
        with gr.Tab("Compare checkpoints", id="compare", elem_id="tab-compare"):
            compare_panel.build(context, live)
