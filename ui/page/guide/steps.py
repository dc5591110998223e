"""The checklist of one's own images: each step's state and its one sentence, from what is there; and its HTML."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Literal

from engine.jobs.snapshot import JobKind
from engine.machine.units import counted, plural
from engine.training.image_cautions import CAPTIONLESS_SHARE
from ui.page.guide.state import OwnFacts
from ui.page.places import focus_on, go_button
from ui.page.states import Action, TrainTabState
from ui.page.view import View

State = Literal["done", "now", "next", "open", "later"]
"""open: it can be done, and something else comes first or it may be left out. later: it cannot be done yet."""
SPOKEN: dict[State, str] = {"done": "done", "now": "working …", "next": "next", "open": "open", "later": "later"}
FOLDER = "#dataset-folder textarea, #dataset-folder input"
NEW_RUN = "#train-new"
"""The form of a new run is hidden while the Train tab shows another."""


@dataclass(frozen=True)
class Step:
    """One line of the checklist."""

    name: str
    title: str
    short: str
    """The title in the line."""
    state: State
    says: str
    """One sentence."""
    button: str
    tabs: tuple[str, ...]
    """Ids of the tabs that the button opens."""
    focus: str
    """The element that gets the focus."""
    unfold: str = ""
    press: str = ""

    @property
    def html_button(self) -> str:
        last = self.name == "start" and self.state == "done"  # the step that comes next gets a prominent button
        css = "next" if last else self.state
        return go_button(self.button, self.tabs, focus_on(self.focus, self.unfold, self.press), f"go {css}")


def own_steps(view: View) -> tuple[Step, ...]:
    """The five steps in their order."""
    facts = view.guide.facts
    found = [_images(facts), _captions(facts), _control_images(facts), _base(facts), _start(facts, view)]
    running = view.snapshot.kind if view.snapshot.alive else ""
    working = {
        JobKind.DATASET: "images",
        JobKind.CAPTIONS: "captions",
        JobKind.CONDITIONS: "obey",
        JobKind.BASES: "base",
    }
    steps, waiting = [], True
    for step in found:
        state = step.state
        if running and working.get(JobKind(running)) == step.name:
            state = "now"
        elif state == "next":
            state, waiting = ("next" if waiting else "open"), False
        steps.append(Step(**{**step.__dict__, "state": state}))
    return tuple(steps)


def _images(facts: OwnFacts) -> Step:
    says = "A folder of your images (they are never changed), or a set to download."
    if facts.dataset:
        says = f"{facts.dataset}: {counted(facts.images, 'image')}."
    state: State = "done" if facts.dataset else "next"
    return Step("images", "Images", "Images", state, says, "Choose images", ("tab-dataset",), FOLDER, "dataset-sources")


def _captions(facts: OwnFacts) -> Step:
    state: State = "open"
    missing = counted(facts.without_caption, "image has", "images have")
    if not facts.dataset:
        state, says = "later", "A caption for each image. Text files next to the images are found automatically."
    elif facts.without_caption > CAPTIONLESS_SHARE * facts.images:
        says = f"{missing} none, so the net would learn to ignore the prompt. You can continue without them."
    else:
        state = "done"
        says = "Each image has one." if not facts.without_caption else f"{missing} none."
    tabs, focus = ("tab-dataset", "dataset-captions"), "#dataset-captions button, #dataset-captions input"
    return Step("captions", "Captions", "Captions", state, says, "Write captions", tabs, focus)


def _control_images(facts: OwnFacts) -> Step:
    state: State = "next" if facts.dataset else "later"
    says = "Edges, depth, a pose … The app makes such a control image from each of your images."
    if facts.maps:
        state = "done"
        few = facts.maps < facts.images
        count = f"{facts.maps:,} of {facts.images:,}" if few else f"{facts.maps:,}"
        says = f"{facts.obeys}: {count} {plural(facts.images if few else facts.maps, 'control image')}."
    return Step(
        "obey",
        "What the net follows",
        "Control images",
        state,
        says,
        "Make them",
        ("tab-conditions",),
        "#maps-make, #maps-make-queue",
    )


def _base(facts: OwnFacts) -> Step:
    state: State = "next"
    if facts.base and facts.base_here:
        state, says = "done", f"{facts.base}."
    elif facts.base_fault:
        says = f"{facts.base_fault} Choose it again, or another one."
    elif facts.base:
        says = f"{facts.base} is chosen but not on this computer yet. The download can be interrupted."
    else:
        says = (
            "The model that generates the images, such as Stable Diffusion 1.5. Download one, or use one you "
            "already have."
        )
    return Step(
        "base", "Base model", "Base", state, says, "Get a base", ("tab-train",), "#bases-download", "bases", NEW_RUN
    )


def _start(facts: OwnFacts, view: View) -> Step:
    ready = facts.maps > 0 and facts.base_here
    if facts.own_run and view.train.state is TrainTabState.COMPLETED:
        return Step("start", "Start", "Start", "done", "Your net is trained.", "Try it", ("tab-try",), "#try-make")
    if view.train.active and facts.own_run:
        return Step(
            "start", "Start", "Start", "now", f"{view.train.headline}.", "Watch it", ("tab-train",), "#train-status"
        )
    if facts.own_run and view.train.buttons[Action.RESUME].visible:
        says, focus = f"{view.train.headline}: it can be resumed.", "#train-resume"
        return Step("start", "Start", "Start", "next", says, "Go to it", ("tab-train",), focus)
    says = (
        "Everything is ready. The settings for your graphics card are selected."
        if ready
        else "When the other steps are done."
    )
    state: State = "next" if ready else "later"
    return Step("start", "Start", "Start", state, says, "Go to Start", ("tab-train",), "#train-start", press=NEW_RUN)


def checklist_html(steps: tuple[Step, ...]) -> str:
    """All steps, side by side where there is room."""
    items = "".join(
        f"<li class='{step.state}'><p class='step-head'>{_number(place, step)}<b>{escape(step.title)}</b> "
        f"<i>{SPOKEN[step.state]}</i></p><p class='hint'>{escape(step.says)}</p>{_button(step)}</li>"
        for place, step in enumerate(steps, 1)
    )
    return f"<ol class='checklist'>{items}</ol>"


def line_html(steps: tuple[Step, ...]) -> str:
    """The steps in one line, with the sentence and the button of the next one."""
    signs = "".join(
        f"<span class='mark {step.state}' title='{escape(step.says, quote=True)}'>{_sign(place, step)} "
        f"{escape(step.short)}</span>"
        for place, step in enumerate(steps, 1)
    )
    step = next_step(steps)
    says = f"<span class='guide-next'>{escape(step.says)}</span>"
    lead = "" if steps[0].state == "done" else "<b>Your own images</b> "
    return f"<p class='guide-line'>{lead}{signs}{says} {step.html_button}</p>"


def next_step(steps: tuple[Step, ...]) -> Step:
    """The step that the one-line form shows: the one in progress, else the next one, else the last."""
    for state in ("now", "next"):
        for step in steps:
            if step.state == state:
                return step
    return steps[-1]


def after_html(view: View, name: str) -> str:
    """The next step and its button, to be shown where a step was just done, because the card may be off screen.

    Empty if the guide is hidden, the step is not done, or no step is left.
    """
    if view.guide.hidden or view.guide.shown_way != "own":
        return ""
    steps = own_steps(view)
    done, following = next(step for step in steps if step.name == name), next_step(steps)
    if done.state != "done" or following.state != "next":
        return ""
    return f"<p class='guide-after'>Next: {escape(following.title)} {following.html_button}</p>"


def _button(step: Step) -> str:
    return "" if step.state == "later" else step.html_button


def _number(place: int, step: Step) -> str:
    return f"<span class='step-number {step.state}'>{_sign(place, step)}</span>"


def _sign(place: int, step: Step) -> str:
    return "✓" if step.state == "done" else str(place)
