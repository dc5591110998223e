"""A page that is still loading says so, and shows no controls that are not filled yet."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.page.live import GROUPS, Live
from ui.page.view import View

FILLED = "<i></i>"
"""In a mark once its update group has arrived. Until all marks have it, ui/page/style.css hides the tabs."""


def build_loading(live: Live) -> None:
    """Build the words, and a hidden mark for each update group. Call before the tabs are built."""
    gr.HTML("<p class='hint' role='status'>Loading the page …</p>", elem_id="page-loading")
    for group in GROUPS:
        mark = gr.HTML(elem_id=f"loaded-{group}", elem_classes="loaded-mark")
        live.outputs([mark], _once, _filled, group)


def _once(view: View) -> Any:
    return 0


def _filled(view: View) -> list[Any]:
    return [FILLED]
