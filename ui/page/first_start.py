"""The first-start card: three clicks from nothing to a trained ControlNet, with the demo that comes with the app."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.demo.sets import DEFAULT_COUNT
from engine.jobs.snapshot import JobKind
from engine.training.job import start_training
from ui.page.context import AppContext
from ui.page.jobs import DEMO_STEPS, choose_demo, demo_set_job, is_demo_set
from ui.page.live import NO_PROGRESS, Live
from ui.page.states import TrainState
from ui.page.view import View

KIND = "circles"
STEPS = (
    ("Make the demo set", "Draws coloured circles and their outlines, in seconds."),
    (
        "Start training",
        "A tiny base that comes with the app learns to obey them. A few minutes, no graphics card.",
    ),
    ("Try it", "Draw with your ControlNet, beside the same image without it."),
)


def build(context: AppContext, live: Live, tabs: Any) -> None:
    """The card above the tabs; it goes away when a run is finished and tried, or when it is hidden."""
    with gr.Column(elem_id="first-start", visible=False) as card:
        with gr.Row(elem_classes="card-head"):
            gr.HTML("<h2>New here? Three clicks to your first ControlNet</h2>")
            hide = gr.Button("Hide", size="sm", min_width=70, scale=0, elem_id="first-hide")
        with gr.Row(equal_height=True):
            words, buttons = zip(*[_step(place, title) for place, (title, _) in enumerate(STEPS)], strict=True)
        with gr.Accordion("Small print", open=False), gr.Row():
            count = gr.Number(DEFAULT_COUNT, label="Demo images", precision=0, elem_id="first-count")
            steps = gr.Number(DEMO_STEPS, label="Training steps", precision=0, elem_id="first-steps")

    def make(count: float) -> Any:
        context.start_job(JobKind.DATASET, "Making the demo set", demo_set_job(context, KIND, int(count or 0)))
        return gr.Tabs(selected="dataset")

    def train(steps: float) -> Any:
        choose_demo(context, int(steps or 0))
        context.free_models()
        start_training(context.runner, context.workspace, *context.config_of(context.draft))
        context.training_started()
        return gr.Tabs(selected="train")

    def attempt() -> Any:
        context.first_start_hidden = True
        return gr.Tabs(selected="try")

    def hide_card() -> None:
        context.first_start_hidden = True

    live.refresh_after(buttons[0].click(context.catch_errors(make), [count], [tabs], **NO_PROGRESS))
    live.refresh_after(buttons[1].click(context.catch_errors(train), [steps], [tabs], **NO_PROGRESS))
    live.refresh_after(buttons[2].click(context.catch_errors(attempt), None, [tabs], **NO_PROGRESS))
    live.refresh_after(hide.click(hide_card, None, None, **NO_PROGRESS))
    live.outputs([card, *words, *buttons], _state, _render)


def _step(place: int, title: str) -> tuple[Any, Any]:
    with gr.Column(min_width=230, elem_classes="step"):
        words = gr.HTML(_words(place, ""))
        button = gr.Button(title, variant="primary", interactive=place == 0, elem_id=f"first-{place + 1}")
    return words, button


def _words(place: int, state: str) -> str:
    sign = "✓" if state == "done" else str(place + 1)
    tail = {"done": " <i>done</i>", "now": " <i>working …</i>", "held": " <i>resume it on the Train tab</i>"}.get(
        state, ""
    )
    title, hint = (escape(text) for text in STEPS[place])
    return (
        f"<p class='step-head'><span class='step-number {state}'>{sign}</span><b>{title}</b>{tail}</p>"
        f"<p class='hint'>{hint}</p>"
    )


def _state(view: View) -> tuple[bool, tuple[str, ...]]:
    """Whether the card is seen, and for each step "done", "now", "held" (an unfinished run), "next" or "" (not yet)."""
    alive, kind = view.snapshot.alive, view.snapshot.kind
    made = any(map(is_demo_set, view.datasets))
    trained = view.train.state is TrainState.COMPLETED
    held = bool(view.shown_run) and not trained and not view.train.active
    first = "now" if alive and kind == JobKind.DATASET else "done" if made else "next"
    second = (
        "now" if view.train.active else "done" if trained else "held" if held else "next" if made and not alive else ""
    )
    third = "next" if trained and not alive else ""
    return not view.first_start_hidden and not view.unfinished, (first, second, third)


def _render(view: View) -> list[Any]:
    seen, states = _state(view)
    buttons = []
    for state in states:
        variant = "primary" if state == "next" else "secondary"
        buttons.append(gr.Button(variant=variant, interactive=state == "next"))
    return [
        gr.Column(visible=seen),
        *(_words(place, state) for place, state in enumerate(states)),
        *buttons,
    ]
