"""The card for the first start: three clicks from nothing to a trained ControlNet, with the demo that comes along."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.demo.sets import DEFAULT_COUNT
from engine.jobs.snapshot import JobKind
from ui.page.context import AppContext
from ui.page.jobs import DEMO_STEPS, choose_demo, demo_set_job, is_demo_set
from ui.page.live import Live
from ui.page.states import TrainTabState
from ui.page.view import View

DEMO_SET = "circles"
STEPS = (
    ("Make the demo set", "Draws coloured circles and their outlines, in a few seconds."),
    (
        "Start training",
        "Teaches a tiny model that comes with the app to follow the outlines. A few minutes, no graphics card needed.",
    ),
    ("Try it", "Generate an image with your ControlNet, next to the same image without it."),
)


def build(context: AppContext, live: Live, tabs: Any) -> None:
    """Build the card above the tabs. It disappears when a run is finished and tried, or when the user hides it."""
    with gr.Column(elem_id="first-start", visible=False) as card:
        with gr.Row(elem_classes="card-head"):
            gr.HTML("<h2>New here? Three clicks to your first ControlNet</h2>")
            hide = gr.Button("Hide", size="sm", min_width=70, scale=0, elem_id="first-hide")
        with gr.Row(equal_height=True):
            texts, buttons = zip(*[_step(place, title) for place, (title, _) in enumerate(STEPS)], strict=True)
        with gr.Accordion("Options", open=False, elem_id="first-options"), gr.Row():
            count = gr.Number(DEFAULT_COUNT, label="Demo images", precision=0, elem_id="first-count")
            steps = gr.Number(DEMO_STEPS, label="Training steps", precision=0, elem_id="first-steps")

    def make_set(count: float) -> Any:
        context.start_job(JobKind.DATASET, "Making the demo set", demo_set_job(context, DEMO_SET, int(count or 0)))
        return gr.Tabs(selected="dataset")

    def train(steps: float) -> Any:
        choose_demo(context, int(steps or 0))
        context.start_training()
        return gr.Tabs(selected="train")

    def try_it() -> Any:
        context.first_start_hidden = True
        return gr.Tabs(selected="try")

    def hide_card() -> None:
        context.first_start_hidden = True

    live.on(buttons[0].click, make_set, [count], [tabs], refresh=True)
    live.on(buttons[1].click, train, [steps], [tabs], refresh=True)
    live.on(buttons[2].click, try_it, None, [tabs], refresh=True)
    live.on(hide.click, hide_card)
    live.outputs([card, *texts, *buttons], _state, _render)


def _step(place: int, title: str) -> tuple[Any, Any]:
    with gr.Column(min_width=230, elem_classes="step"):
        text = gr.HTML(_text(place, ""))
        button = gr.Button(title, variant="primary", interactive=place == 0, elem_id=f"first-{place + 1}")
    return text, button


def _text(place: int, state: str) -> str:
    sign = "✓" if state == "done" else str(place + 1)
    remarks = {"done": "done", "now": "working …", "unfinished": "resume it on the Train tab"}
    remark = f" <i>{remarks[state]}</i>" if state in remarks else ""
    title, hint = (escape(text) for text in STEPS[place])
    return (
        f"<p class='step-head'><span class='step-number {state}'>{sign}</span><b>{title}</b>{remark}</p>"
        f"<p class='hint'>{hint}</p>"
    )


def _state(view: View) -> tuple[bool, tuple[str, ...]]:
    """Return whether the card is shown, and for each step "done", "now", "unfinished", "next" or "" (not yet)."""
    alive, kind = view.snapshot.alive, view.snapshot.kind
    made = any(map(is_demo_set, view.datasets))
    trained = view.train.state is TrainTabState.COMPLETED
    unfinished = bool(view.shown_run) and not trained and not view.train.active
    first = "now" if alive and kind == JobKind.DATASET else "done" if made else "next"
    if view.train.active:
        second = "now"
    elif trained:
        second = "done"
    elif unfinished:
        second = "unfinished"
    else:
        second = "next" if made and not alive else ""
    third = "next" if trained and not alive else ""
    return not view.first_start_hidden and not view.unfinished, (first, second, third)


def _render(view: View) -> list[Any]:
    shown, states = _state(view)
    buttons = []
    for state in states:
        variant = "primary" if state == "next" else "secondary"
        buttons.append(gr.Button(variant=variant, interactive=state == "next"))
    return [
        gr.Column(visible=shown),
        *(_text(place, state) for place, state in enumerate(states)),
        *buttons,
    ]
