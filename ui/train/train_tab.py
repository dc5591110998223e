"""Train: set up a run, start it, watch it learn."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.view import View
from ui.train.advice import build_advice
from ui.train.before_start import build_before_start
from ui.train.cautions import build_cautions
from ui.train.checkpoints_panel import build_checkpoints
from ui.train.evaluate_panel import build_evaluate
from ui.train.follow_up import build_follow_up
from ui.train.own_presets import build_own_presets
from ui.train.preview_sets import build_previews
from ui.train.resume_form import build_resume_form
from ui.train.run_facts import run_facts
from ui.train.run_form import RunForm
from ui.train.several_cards import build_several_cards
from ui.train.status_bar import StatusBar
from ui.train.transfer_panel import build_transfer
from ui.train.verdict import build_verdict
from ui.train.watch import build_log, build_watch


def build(context: AppContext, live: Live) -> None:
    """Build the tab: the bar; the form of a new run, or what a run has made so far."""
    bar = StatusBar()
    with gr.Column(elem_classes="run-setup", elem_id="run-setup") as setup:
        with gr.Row(equal_height=False):
            first = gr.Column(scale=2, min_width=340, elem_id="setup")
            beside = gr.Column(scale=3, min_width=420, elem_classes="snug")
        rest = gr.Column(elem_classes="snug")
    with first:
        form = RunForm(context, live, rest)
    with rest:
        build_own_presets(context, live, form)
        build_several_cards(context, live, form)
    with beside:
        build_cautions(context, live, form)
        build_before_start(context, live, form)
    with gr.Column() as watched:
        build_previews(context, live)
        verdict = gr.Column()
        charts = gr.Row(elem_id="train-charts")
        with verdict:
            build_verdict(context, live, charts)
            build_advice(context, live)
            build_follow_up(context, live)
        build_watch(live, charts)
        with gr.Column(elem_classes="snug"):
            build_resume_form(context, live)
            build_checkpoints(context, live, bar.run)
            build_evaluate(context, live)
            build_transfer(context, live)
            with gr.Accordion("Settings of this run", open=False, visible=False, elem_id="run-about-box") as about:
                facts = gr.HTML(elem_id="run-about")
            build_log(live)
    bar.wire(context, live, form)

    def parts(view: View) -> list[Any]:
        new = not view.shown_run and not view.train.active
        text = run_facts(context, view)
        return [gr.Column(visible=new), gr.Column(visible=not new), gr.Accordion(visible=bool(text)), text]

    live.outputs(
        [setup, watched, about, facts], lambda view: (view.shown_run, view.train.state, view.history.changes), parts
    )
