"""The warnings below Start, each with a button that fixes it, and the confirmation before a pointless run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from engine.config.presets import flatten, unflatten
from engine.machine.units import counted
from engine.training.caution import Caution, Level
from engine.training.cautions import WITH_REMEDY
from engine.training.image_cautions import dataset_check
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.view import Draft, View
from ui.train.places import place_button
from ui.train.run_form import RunForm

SIGNS: dict[Level, tuple[str, str]] = {"red": ("!", "Serious"), "yellow": ("!", "Caution"), "note": ("i", "Note")}
"""The sign of a line, and what a screen reader says for it."""
AFTER_BLUR = 300
"""Milliseconds between the click and its effect: a box of the form that loses the focus by this click may still send
what was typed into it, and that has to arrive first."""
NOT_STARTED = "Training has not started. Read the line marked in red, then decide:"


def build_cautions(context: AppContext, live: Live, form: RunForm) -> None:
    """Build the list, and the second button, which is visible after Start was pressed despite a red caution."""
    with gr.Column(elem_id="train-cautions", elem_classes="snug"):
        shown = gr.HTML(elem_id="cautions")
        anyway = gr.Button("Train anyway", variant="stop", visible=False, elem_id="train-anyway")
        for rule in WITH_REMEDY:  # pressed by the buttons in the list
            hidden = gr.Button(rule, elem_id=f"caution-{rule}", elem_classes="pressed-by-script")
            live.on(hidden.click, functools.partial(apply_remedy, context, rule))

    def start_anyway(*values: Any) -> None:
        form.edits.take_all(*values)
        context.start_training()

    live.on(anyway.click, start_anyway, form.inputs)
    live.outputs([shown, anyway], lambda view: (shown_cautions(view), asks(view)), render)


def red(cautions: tuple[Caution, ...]) -> Caution | None:
    """Return the first caution that Start asks to confirm."""
    return next((caution for caution in cautions if caution.level == "red"), None)


def shown_cautions(view: View) -> tuple[Caution, ...]:
    """Return the cautions. While the automatic dataset check runs, its progress stands in place of its verdict."""
    found, check = view.train.cautions, view.auto_check
    if not found or not check.alive or check.dataset != view.draft.changes.get("data", {}).get("dataset"):
        return found
    far = f": {check.done:,} of {counted(check.total, 'image')}" if check.total else ""
    told = Caution(
        "note",
        f"The dataset is being checked{far}.",
        "It looks for damaged, blurred and duplicate images, and maps that do not fit.",
        "You can start before it finishes.",
        look="doctor",
        rule=dataset_check.__name__,
    )
    return tuple(told if one.rule == told.rule else one for one in found)


def asks(view: View) -> str:
    """Return the text of the second button, or nothing: there is no red caution, or Start was not pressed."""
    serious = red(view.train.cautions)
    return serious.anyway if serious is not None and view.start_pressed else ""


def start_or_ask(context: AppContext) -> None:
    """Start the draft's run, or, if a caution is red, show the second button."""
    if red(context.readiness().cautions) is None:
        context.start_training()
    else:
        context.start_pressed()


def apply_remedy(context: AppContext, rule: str) -> None:
    """Put the settings that a caution offers into the form."""
    found = [caution.offer for caution in context.readiness().cautions if caution.rule == rule and caution.offer]
    if found:
        fill_form(context, found[0].settings)


def fill_form(context: AppContext, settings: Mapping[str, Any]) -> None:
    """Put settings, by dotted name, into the form of a new run."""

    def fill(draft: Draft) -> Draft:
        changes = unflatten({**flatten(draft.changes), **settings})
        return Draft(draft.preset, changes, draft.number + 1)

    context.edit_draft(fill)


def render(view: View) -> list[Any]:
    """Render the list and the second button."""
    question = asks(view)
    return [
        cautions_html(shown_cautions(view), asked=bool(question)),
        gr.Button(question or "Train anyway", visible=bool(question)),
    ]


def cautions_html(cautions: tuple[Caution, ...], asked: bool = False) -> str:
    """Return one line for each caution: what, why, what to do, and a button for it if there is one."""
    if not cautions:
        return ""
    lines = "".join(f"<li class='{caution.level}'>{_line(caution)}</li>" for caution in cautions)
    told = f"<p class='asked' role='alert'>{escape(NOT_STARTED)}</p>" if asked else ""
    return f"<ul class='cautions' aria-label='Before you start'>{lines}</ul>{told}"


def _line(caution: Caution) -> str:
    sign, spoken = SIGNS[caution.level]
    press = f"setTimeout(()=>document.getElementById('caution-{caution.rule}').click(),{AFTER_BLUR})"
    offer = caution.offer
    button = f' <button type="button" class="look" onclick="{press}">{escape(offer.title)}</button>' if offer else ""
    return (
        f"<span class='sign' role='img' aria-label='{spoken}'>{sign}</span><span><b>{escape(caution.what)}</b> "
        f"{escape(caution.why)} {escape(caution.try_this)}{button}{place_button(caution.look)}</span>"
    )
