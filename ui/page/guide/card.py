"""The card above the tabs: two ways to begin, then the steps of the one that was chosen."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.page.context import AppContext
from ui.page.guide.demo_way import DemoWay
from ui.page.guide.steps import FOLDER, checklist_html, line_html, own_steps
from ui.page.live import Live
from ui.page.places import focus_on
from ui.page.view import View

TITLES = {
    "": "New here? Two ways to start",
    "demo": "The demo: three clicks to your first ControlNet",
    "own": "A ControlNet for your own images",
}
DEMO = (
    "<p class='step-head'><b>Demo</b> <i>nothing to download</i></p><p class='hint'>Three clicks: draws coloured "
    "shapes, trains a tiny net to follow their outlines, and shows that the installation works. It takes a few "
    "minutes, even without a graphics card.</p>"
)
OWN = (
    "<p class='step-head'><b>My own images</b> <i>the real thing</i></p><p class='hint'>A net for ComfyUI, "
    "AUTOMATIC1111 and others. You need images, a base model (a download of 2 GB or more if you have none), a "
    "graphics card, and some hours of training.</p>"
)


def build(context: AppContext, live: Live, tabs: Any) -> None:
    """Build the card. It stays until the user hides it; on the Settings tab it can be shown again."""
    with gr.Column(elem_id="first-start", visible=False) as card:
        with gr.Row(elem_classes="card-head"):
            title = gr.HTML(elem_id="guide-title")
            other = gr.Button("", size="sm", min_width=130, scale=0, visible=False, elem_id="guide-other")
            fold = gr.Button("", size="sm", min_width=110, scale=0, visible=False, elem_id="guide-fold")
            hide = gr.Button("Hide", size="sm", min_width=70, scale=0, elem_id="first-hide")
        with gr.Row(equal_height=True, visible=False) as choice:
            with gr.Column(min_width=260, elem_classes="step"):
                gr.HTML(DEMO)
                demo = gr.Button("Demo", variant="primary", elem_id="guide-demo")
            with gr.Column(min_width=260, elem_classes="step"):
                gr.HTML(OWN)
                own = gr.Button("My own images", variant="primary", elem_id="guide-own")
        demo_way = DemoWay()
        own_way = gr.HTML(elem_id="guide-own-way", visible=False)

    def choose_own() -> Any:
        context.guide.choose("own")
        return gr.Tabs(selected="dataset")

    def take_other() -> None:
        context.guide.choose("own" if context.view().guide.shown_way == "demo" else "demo")

    def turn_fold() -> None:
        context.guide.unfold(context.view().guide.folded)

    live.on(demo.click, lambda: context.guide.choose("demo"))
    chosen = live.on(own.click, choose_own, None, [tabs], refresh=True)
    chosen.then(None, None, None, js=f"() => {{ {focus_on(FOLDER)} }}", api_visibility="private")
    live.on(other.click, take_other)
    live.on(fold.click, turn_fold)
    live.on(hide.click, lambda: context.guide.hide())
    demo_way.wire(context, live, tabs)
    live.outputs([card, title, other, fold, choice, demo_way.column, own_way], key, render)


def is_shown(view: View) -> bool:
    """Whether the card is on the page: not hidden, and no unfinished run of an earlier session waits for an answer."""
    return not view.guide.hidden and not view.unfinished


def key(view: View) -> Any:
    if not is_shown(view):
        return False
    return view.guide, own_steps(view) if view.guide.shown_way == "own" else ()


def render(view: View) -> list[Any]:
    if not is_shown(view):
        return [gr.Column(visible=False), *[gr.skip()] * 6]
    way, steps = view.guide.shown_way, own_steps(view)
    line = way == "own" and view.guide.folded
    return [
        gr.Column(visible=True),
        line_html(steps) if line else f"<h2>{TITLES[way]}</h2>",
        gr.Button("My own images" if way == "demo" else "The demo", visible=bool(way) and not line),
        gr.Button("All steps" if line else "Shrink", visible=way == "own"),
        gr.Row(visible=not way),
        gr.Column(visible=way == "demo"),
        gr.HTML("" if line else checklist_html(steps), visible=way == "own" and not line),
    ]
