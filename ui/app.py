"""The window: header, start cards, and the tabs in their order."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.errors import Offer
from ui.conditions import conditions_tab
from ui.dataset import dataset_tab
from ui.export import export_tab
from ui.page import close_button, unfinished
from ui.page.context import AppContext
from ui.page.guide import card
from ui.page.live import Live
from ui.page.loading import build_loading
from ui.page.messages import status_line
from ui.page.problems import ReportCache, problem_html
from ui.page.view import View
from ui.queue import queue_panel
from ui.settings import settings_tab
from ui.train import train_tab
from ui.try_it import try_tab

TITLE = "ControlNet Studio"
TABS = (
    ("Dataset", "dataset", dataset_tab.build),
    ("Conditions", "conditions", conditions_tab.build),
    ("Train", "train", train_tab.build),
    ("Try it", "try", try_tab.build),
    ("Export", "export", export_tab.build),
    ("Settings & help", "settings", settings_tab.build),
)
MOST_OFFERS = 3
"""Ways to resume a failed run that are offered as buttons."""
CACHE_SECONDS = 24 * 3600
"""Age at which gradio deletes its own copies of the images that pages have shown."""


def build_app(context: AppContext) -> tuple[gr.Blocks, Live]:
    """Build the whole window around one context. Returns it with what keeps its pages up to date."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, CACHE_SECONDS), fill_width=True) as demo:
        live = Live(context, demo)
        _header(context, live)
        build_loading(live)
        cards = gr.Column()
        with gr.Tabs(elem_id="tabs") as tabs:
            for title, name, build in TABS:
                with gr.Tab(title, id=name, elem_id=f"tab-{name}"):
                    build(context, live)
        with cards:
            unfinished.build(context, live, tabs)
            card.build(context, live, tabs)
        live.wire()
    demo.queue(api_open=False)
    return demo, live


def _header(context: AppContext, live: Live) -> None:
    with gr.Row(elem_id="header"):
        gr.HTML(f"<h1>{TITLE}</h1>")
        status = gr.HTML(elem_id="status-line")
        queue = queue_panel.build_button()
        close = close_button.build_button()
    close_button.build_question(context, live, close)
    queue_panel.build_panel(context, live, queue)
    build_problem_panel(context, live)
    live.outputs(
        [status],
        lambda view: status_line(view.snapshot, view.closing),
        lambda view: [status_line(view.snapshot, view.closing)],
        "fast",
    )


def build_problem_panel(context: AppContext, live: Live) -> None:
    """Build the panel of an error, with a button for each way to resume the run that has failed."""
    with gr.Column(visible=False, elem_id="problem-box") as box:
        problem = gr.HTML(elem_id="problem")
        with gr.Row(elem_classes="buttons"):
            offers = [
                (
                    gr.Button(visible=False, variant="primary", scale=0, elem_id=f"problem-offer-{place + 1}"),
                    gr.State(None),
                )
                for place in range(MOST_OFFERS)
            ]
            dismiss = gr.Button("Close this message", size="sm", min_width=160, scale=0, elem_id="problem-dismiss")
    reports = ReportCache(context.workspace)
    live.on(dismiss.click, context.dismiss_problem)

    def take(offer: Offer) -> None:
        context.resume_training(offer.run, offer.settings, offer.from_step)

    for button, offer in offers:
        live.on(button.click, take, [offer])

    def render(view: View) -> list[Any]:
        found = view.problem.offers[:MOST_OFFERS] if view.problem else ()
        shown = [update for one in found for update in (gr.Button(one.title, visible=True), one)]
        hidden = [gr.Button(visible=False), None] * (MOST_OFFERS - len(found))
        return [
            gr.Column(visible=view.problem is not None),
            problem_html(view.problem, reports.get(view)),
            *shown,
            *hidden,
        ]

    live.outputs([box, problem, *(part for pair in offers for part in pair)], lambda view: view.problem, render)


def _offer_button(place: int) -> Any:
    return gr.Button(visible=False, variant="primary", min_width=200, scale=0, elem_id=f"problem-offer-{place + 1}")
