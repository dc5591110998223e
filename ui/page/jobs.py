"""The demo as the window offers it: sets that are drawn here, and the settings that train on them."""

from __future__ import annotations

from engine.config.presets import flatten, unflatten
from engine.demo.sets import demo_preset
from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import Outcome
from ui.dataset.import_jobs import counting
from ui.page.context import AppContext, with_focus
from ui.page.view import Draft

DEMO = demo_preset().name
DEMO_STEPS = int(demo_preset().values["train"]["steps"])


def is_demo_set(dataset: str) -> bool:
    """By its name."""
    return dataset.startswith("demo-")


def draw_demo_set(context: AppContext, kind: str, count: int) -> Work:
    """Draw a set, read it, and choose it everywhere."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.demo.sets import make_demo_set

        dataset = make_demo_set(context.workspace, kind, count, counting(emit, "Images drawn and read"), token)
        emit(Message(f"The demo set {dataset.name} is ready: {dataset.count():,} images with their maps."))
        with_focus(context, dataset.name)
        return "completed"

    return work


def choose_demo(context: AppContext, steps: int) -> None:
    """The demo's settings in the form, with ``steps`` steps; what was changed in the form of the demo already stays."""
    draft, datasets = context.draft, context.files()[0]
    on_demo = (draft.preset or context.suggested_preset) == DEMO
    changes = flatten(draft.changes) if on_demo else {}
    changes.pop("train.steps", None)  # the card's own figure counts
    chosen = str(flatten(draft.changes).get("data.dataset", ""))
    changes["data.dataset"] = chosen if is_demo_set(chosen) else next(filter(is_demo_set, datasets), "")
    if steps != DEMO_STEPS:
        changes["train.steps"] = steps
        if steps <= int(demo_preset().values["optim"].get("warmup_steps", 0)):
            changes["optim.warmup_steps"] = 0  # a warm-up as long as the run is refused
    context.draft = Draft(DEMO, unflatten(changes), draft.number + 1)
