"""The settings of the shown run, as a table."""

from __future__ import annotations

import itertools
from html import escape

from engine.conditions import registry
from engine.config.toml import launch_command
from engine.errors import UserError
from engine.machine.units import counted
from engine.runs.run import Run
from engine.tuning.facts import facts_of
from ui.page.context import AppContext
from ui.page.messages import note
from ui.page.view import View


def _condition_title(run: Run) -> str:
    kind = run.condition.get("type")
    return f"none, it trains {facts_of(run.config).trains}" if kind is None else registry.title(str(kind))


def run_facts(context: AppContext, view: View) -> str:
    """Return the settings of the shown run."""
    if not view.shown_run:
        return ""
    try:
        run = Run(context.workspace.runs / view.shown_run)
    except UserError as error:
        return note(f"{error.what} {error.why}", "warning")
    settings, train = run.config, run.config.train
    rows = {
        "Base model": settings.model.base,
        "Dataset": settings.data.dataset,
        "Control type": _condition_title(run),
        "Steps": f"{train.steps:,}, {counted(settings.images_per_step, 'image')} each",
        "Resolution": f"{settings.data.resolution} px",
        "Learning rate": f"{settings.optim.learning_rate:g}",
        "Saved every": counted(train.checkpoint_every, "step"),
        "Folder": str(run.folder),
    }
    if run.changes:
        rows["Changed"] = "; ".join(
            f"step {step:,}: {', '.join(change.words for change in together)}"
            for step, together in itertools.groupby(run.changes, lambda change: change.step)
        )
    if run.trained_on:
        rows["Trained on"] = run.trained_on
    if context.hardware.cards > 1 and not run.completed:
        resume = launch_command(context.hardware.cards, "resume", run.name, workspace=context.workspace)
        rows[f"On {context.hardware.cards} graphics cards"] = f"Close the app, then in a terminal: {resume}"
    cells = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items())
    return f"<table class='facts'>{cells}</table>"
