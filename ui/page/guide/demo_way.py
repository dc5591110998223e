"""The demo in three clicks: make a dataset, train, draw an image, with the tiny base that comes with the app."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.demo.sets import DEFAULT_COUNT
from engine.jobs.snapshot import JobKind
from ui.page.context import AppContext
from ui.page.jobs import DEMO, DEMO_BASES, DEMO_STEPS, choose_demo, demo_set_job, demo_steps
from ui.page.listing import is_demo_set
from ui.page.live import Live
from ui.page.states import TrainTabState
from ui.page.view import View

DEMO_SET = "circles"
STEPS = (
    ("Make the demo set", "Draws coloured circles and their outlines, in a few seconds."),
    (
        "Start training",
        (
            "Trains a tiny ControlNet on the base model that comes with the app. Takes a few minutes, no graphics "
            "card needed."
        ),
    ),
    ("Try it", "Generate an image with your ControlNet, next to the same image without it."),
)


class DemoWay:
    """The row of the three steps, and the options below it."""

    def __init__(self) -> None:
        self._typed = (DEFAULT_COUNT, DEMO_STEPS, DEMO)
        with gr.Column(elem_id="guide-demo-way", elem_classes="snug", visible=False) as self.column:
            with gr.Row(equal_height=True):
                steps = [_step(place, title) for place, (title, _) in enumerate(STEPS)]
            self._texts, self._buttons = zip(*steps, strict=True)
            with gr.Accordion("Options", open=False, elem_id="first-options"), gr.Row():
                self._count = gr.Number(DEFAULT_COUNT, label="Demo images", precision=0, elem_id="first-count")
                self._steps = gr.Number(DEMO_STEPS, label="Training steps", precision=0, elem_id="first-steps")
                self._base = gr.Dropdown(list(DEMO_BASES), value=DEMO, label="Tiny base model", elem_id="first-base")

    def wire(self, context: AppContext, live: Live, tabs: Any) -> None:
        """Wire the buttons."""

        def make_set(count: float) -> Any:
            context.start_job(JobKind.DATASET, "Making the demo set", demo_set_job(context, DEMO_SET, int(count or 0)))
            return gr.Tabs(selected="dataset")

        def train(steps: float, base: str) -> Any:
            choose_demo(context, int(steps or 0), base)
            context.start_training()
            return gr.Tabs(selected="train")

        def try_it() -> Any:
            context.guide.choose("own", unfolded=False)  # one line about what comes next
            return gr.Tabs(selected="try")

        def base_chosen(count: float, base: str) -> Any:
            if base == self._typed[2]:
                return gr.skip()  # the list was only filled: the typed number of steps stays
            steps = demo_steps(context, base)
            typed(count, steps, base)
            return steps

        def typed(count: float, steps: float, base: str) -> None:
            self._typed = (int(count or 0), int(steps or 0), base)

        options = [self._count, self._steps, self._base]
        live.on([self._count.input, self._steps.input], typed, options, refresh=False)
        live.on(self._base.input, base_chosen, [self._count, self._base], [self._steps])
        live.outputs(options, lambda view: (), lambda view: list(self._typed))  # a page that is loaded again
        live.on(self._buttons[0].click, make_set, [self._count], [tabs], refresh=True)
        live.on(self._buttons[1].click, train, [self._steps, self._base], [tabs], refresh=True)
        live.on(self._buttons[2].click, try_it, None, [tabs], refresh=True)
        live.outputs([*self._texts, *self._buttons], demo_states, _render)


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


def demo_states(view: View) -> tuple[str, ...]:
    """Return for each step "done", "now", "unfinished", "next" or "" (not yet)."""
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
    return first, second, third


def _render(view: View) -> list[Any]:
    states = demo_states(view)
    buttons = []
    for state in states:
        variant = "primary" if state == "next" else "secondary"
        buttons.append(gr.Button(variant=variant, interactive=state == "next"))
    return [*(_text(place, state) for place, state in enumerate(states)), *buttons]
