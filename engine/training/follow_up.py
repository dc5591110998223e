"""A ControlNet on what a run has taught the base: the export that it needs, and the settings of its run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.bases.merging import ready_base
from engine.config import RunConfig
from engine.config.presets import CONTROLNET, all_presets, resolve, unflatten
from engine.config.user_presets import UserPresets
from engine.demo.sets import demo_preset
from engine.errors import UserError
from engine.evaluation.grid import best_step
from engine.families.distilled import usual_settings
from engine.families.files import family_of
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.tuning.facts import facts_of
from engine.workspace.base_reference import Ingredient, parse_ingredients
from engine.workspace.paths import Workspace, safe_name


def chosen_checkpoint(run: Run) -> Checkpoint:
    """The best checkpoint by the verdict, else the newest.

    Raises:
        UserError: there is none.
    """
    checkpoints = run.checkpoints()
    if not checkpoints:
        raise UserError(
            f"{run.name} has nothing to train a ControlNet on.",
            "It has no checkpoint.",
            "Train it until the first checkpoint is saved.",
        )
    best = best_step(run)
    return next((saved for saved in checkpoints if saved.step == best), checkpoints[-1])


def exported_for_controlnet(workspace: Workspace, run: Run, token: CancelToken | None, progress: OnProgress) -> Path:
    """The export of ``chosen_checkpoint``, made unless there is one of that step.

    A LoRA or an embedding becomes a file, a whole base a folder.

    Raises:
        UserError: there is no checkpoint, or the export fails. Cancelled: nothing is left behind.
    """
    from engine.export.deliver import exports_in
    from engine.export.out import export

    chosen = chosen_checkpoint(run)
    name = f"{safe_name(run.config.name or run.name)}-step-{chosen.step}"
    for made in exports_in(run.exports):
        if re.match(rf"{re.escape(name)}(?!\d)", made.path.stem):  # step-20 is not that of step 2
            return made.path
    whole = facts_of(run.config).learned.base == "everything"
    base = ready_base(workspace, run.config.model.whole_base, token, progress) if whole else ""
    way = "diffusers" if whole else "single_file"
    # Overwriting: an embedding is named by its word, whatever the step.
    return export(chosen.folder, way, run.exports, name, overwrite=True, token=token, progress=progress, base=base).path


def controlnet_settings(run: Run, exported: Path) -> dict[str, Any]:
    """Settings of a ControlNet run on what ``run`` has taught its base, by dotted name.

    Args:
        exported: from ``exported_for_controlnet``.
    """
    model, data = run.config.model, run.config.data
    settings: dict[str, Any] = {f"data.{name}": getattr(data, name) for name in ("dataset", "resolution", "held_out")}
    if facts_of(run.config).learned.base == "everything":
        return settings | {"model.base": str(exported)}
    files = [*parse_ingredients(model.ingredients), Ingredient(str(exported), 1.0)]
    return settings | {"model.base": model.base, "model.ingredients": "\n".join(map(str, files))}


def controlnet_config(
    workspace: Workspace, run: Run, exported: Path, preset: str, own: Mapping[str, Any]
) -> tuple[RunConfig, dict[str, str]]:
    """All settings of a ControlNet run on what ``run`` has taught its base, and where each value comes from.

    Args:
        exported: from ``exported_for_controlnet``.
        preset: name of the one below these settings.
        own: settings above them, by section.

    Raises:
        UserError: a value is out of bounds, or there is no such preset.
    """
    settings = unflatten(controlnet_settings(run, exported))
    chosen = UserPresets(workspace.presets, [demo_preset(), *all_presets()]).get(preset)
    base = settings["model"]["base"]
    below = [*usual_settings(workspace, base), *chosen.layers(family_of(workspace, base), CONTROLNET)]
    return resolve(*below, (f"run {run.name}", settings), ("you", dict(own)))
