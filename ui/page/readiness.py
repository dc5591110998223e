"""Whether a new run can start, its expected time and memory, and reasons against it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.config import RunConfig
from engine.errors import UserError
from engine.estimate.estimate import estimate
from engine.families.files import made_for
from engine.machine.hardware import Hardware
from engine.runs.known_bases import known_schedule
from engine.training.advisor import advice_for
from engine.training.cautions import cautions
from engine.training.new_run import missing
from engine.training.start_facts import start_facts
from engine.workspace.paths import Workspace
from ui.page.states import Readiness


def check_readiness(
    workspace: Workspace, make_config: Callable[[], RunConfig], hardware: Hardware, libraries_loaded: bool
) -> Readiness:
    """Look at files only. Takes some hundredths of a second, so it is called when something has changed.

    Args:
        libraries_loaded: torch is there, so that the base can be described.
    """
    try:
        if not workspace.dataset_names():
            return Readiness("There is no dataset yet. Make one on the Dataset tab.")
        config = make_config()
        sentences = missing(workspace, config)
        if sentences:
            return Readiness(" ".join(sentences))
        base = about_base(workspace, config) if libraries_loaded else ""
        facts = start_facts(workspace, config, hardware)
        return Readiness(
            summary=f"{estimate(config, workspace, hardware)}. {base}".strip(),
            cautions=cautions(config, facts),
            advice=advice_for(config, facts),
        )
    except UserError as error:
        return Readiness(f"{error.what} {error.why} {error.try_this}")


def about_base(workspace: Workspace, config: RunConfig) -> str:
    """How the base was recognized, and a warning about the resolution if no caution gives it."""
    located = workspace.locate_base(config.model.base)
    if not Path(located).exists():
        return ""  # on the hub: nothing is downloaded for a hint
    from engine.families.registry import describe
    from engine.families.registry import detect as detect_family

    known = f"Base model: {describe(located, known_schedule(workspace, located))}."
    side = detect_family(located).default_resolution(located)
    if config.data.resolution == side or made_for(located):
        return known
    return f"{known} Careful: it was trained at {side} px, but the resolution is set to {config.data.resolution} px."
