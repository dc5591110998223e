"""Create a run: what it needs that is missing, then its folder with run.json. Nothing is trained here."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.data.crop_plan import STEP
from engine.data.dataset import Dataset
from engine.data.description import ConditionSpec
from engine.data.moved import missing_source
from engine.errors import UserError, did_you_mean
from engine.families.adapter_kinds import why_unfit
from engine.families.files import config_folder, configs_of
from engine.machine.hardware import detect
from engine.machine.optional import why_no_four_bits
from engine.machine.units import counted, format_bytes, plural
from engine.nets.starting_controlnet import why_not_in_mode, why_not_of_base, why_not_start
from engine.runs.run import QUEUE_ENTRIES, Run, write_run
from engine.training import failure
from engine.tuning.facts import facts_of
from engine.tuning.requirements import why_not_tuned
from engine.version import VERSION
from engine.workspace.paths import Workspace

MIN_FREE_BYTES = 256 * 2**20
VERSIONS = ("torch", "diffusers", "transformers", "accelerate")


def missing(workspace: Workspace, config: RunConfig) -> list[str]:
    """Sentences about what is missing; empty if a run can start. Looks at files only."""
    sentences = []
    names = workspace.dataset_names()
    if not config.data.dataset:
        there = f"There are: {', '.join(names)}." if names else "There are none yet: read a folder of images first."
        sentences.append(f"No dataset is chosen. {there}")
    elif config.data.dataset not in names:
        sentences.append(
            f"There is no dataset called {config.data.dataset} in this workspace. "
            f"{did_you_mean(config.data.dataset, names)} If it was renamed or deleted, restore it, or read its "
            "images again under this name.".replace("  ", " ")
        )
    else:
        dataset = Dataset.open(workspace.dataset_folder(config.data.dataset))
        needs_maps = facts_of(config).needs_condition_maps
        if dataset.condition is None and needs_maps:
            sentences.append("Make the condition maps on the Conditions tab.")
        elif gone := missing_source(dataset.name, dataset.source):
            sentences.append(gone)
        elif (ready := dataset.count(ready=needs_maps)) < 2:
            have = plural(ready, "has", "have") + " a condition map" if needs_maps else "can be used"
            of = counted(dataset.count(), "image")
            sentences.append(f"{ready} of {of} {have}; at least 2 are needed, since one is held out to measure by.")
    try:
        workspace.locate_base(config.model.base)
    except UserError as error:
        sentences.append(f"{error.what} {error.try_this}")
    else:
        sentences += [*_unfit(workspace, config), *_unfit_ingredients(workspace, config)]
    start = config.model.controlnet
    if start and (why := why_not_start(start)):
        sentences.append(why)
    if config.train.base_storage == "nf4" and (why := why_no_four_bits(detect().device)):
        sentences.append(why)
    if lost := failure.lost_card():
        sentences.append(lost)
    if (free := workspace.free_bytes()) < MIN_FREE_BYTES:
        sentences.append(
            f"The disk of {workspace.root} has {format_bytes(free)} free, and a run needs at least "
            f"{format_bytes(MIN_FREE_BYTES)}: free some space, or choose another workspace."
        )
    return sentences


def _unfit(workspace: Workspace, config: RunConfig) -> list[str]:
    """What the base cannot be trained with, as its configs say."""
    family, located = configs_of(workspace, config.model.base).facts, workspace.locate_base(config.model.base)
    if why_not := why_not_tuned(config, family, located):
        return why_not
    wanted, objective, start = facts_of(config).learned.blocks, config.objective, config.model.controlnet
    step = config.data.bucket_step if config.data.buckets else STEP
    asked = (
        wanted or start or objective.control_dropout or objective.t5_dropout or objective.hidden_captions,
        objective.guidance or objective.min_snr_gamma or objective.offset_noise,
        step != STEP or objective.timestep_sampling == "cubic",
    )
    if not any(asked):
        return []
    base = configs_of(workspace, config.model.base)
    why = [base.facts.why_not_blocks(base.denoiser, wanted), base.facts.why_not_step(step)]
    why += base.facts.why_not_left_out(objective.control_dropout, objective.t5_dropout, objective.hidden_captions)
    why += [base.facts.why_not_guided(objective.guidance)]
    noise = objective.timestep_sampling, objective.min_snr_gamma, objective.offset_noise
    why += base.facts.why_not_objective(*noise)
    if start and not why_not_start(start):
        why += [why_not_in_mode(start, base.facts, config.model.union_mode)]
        why += [why_not_of_base(start, base.denoiser, config.model.base, base.facts)] if config_folder(located) else []
    return [sentence for sentence in why if sentence]


def _unfit_ingredients(workspace: Workspace, config: RunConfig) -> list[str]:
    """What is wrong with the LoRA and embedding files, as their headers say."""
    try:
        merged = workspace.merged_base(config.model.whole_base)
    except UserError as error:
        return [f"{error.what} {error.try_this}"]
    if merged is None or merged.made:
        return []
    facts = configs_of(workspace, config.model.base).facts
    return [why for path, _ in merged.ingredients if (why := why_unfit(path, facts))]


def require_all(workspace: Workspace, run: Run) -> None:
    """Raise UserError if something is missing without which a run cannot go on (see ``missing``)."""
    config = run.config
    if any(checkpoint.resumable for checkpoint in run.checkpoints()):  # a file that it started from may be gone by now
        config = config.model_copy(update={"model": config.model.model_copy(update={"controlnet": ""})})
    if sentences := missing(workspace, config):
        raise UserError(f"{run.name} cannot continue.", " ".join(sentences), "Correct this, then resume the run.")


def require_startable(workspace: Workspace, config: RunConfig) -> None:
    """Raise UserError if something is missing, or the base is on this disk and cannot be trained for.

    Loads torch and diffusers.
    """
    _require_nothing_missing(workspace, config)
    located = workspace.locate_base(config.model.base)
    if Path(located).exists():
        from engine.families.registry import detect as detect_family

        detect_family(located)


def _require_nothing_missing(workspace: Workspace, config: RunConfig) -> None:
    if sentences := missing(workspace, config):
        raise UserError("Training cannot start.", " ".join(sentences), "Correct this, then start again.")


def create_run(workspace: Workspace, config: RunConfig, origins: dict[str, str], queue_entry: str = "") -> Run:
    """The run's folder with its run.json; nothing is trained yet.

    Args:
        queue_entry: id of the queue's entry that begins it, so that a second attempt of the entry finds the run.

    Raises:
        UserError: something is missing (see ``missing``).
    """
    _require_nothing_missing(workspace, config)
    dataset = Dataset.open(workspace.dataset_folder(config.data.dataset))
    spec = dataset.condition if facts_of(config).needs_condition_maps else None
    config = config.model_copy(update={"name": config.name or config.data.dataset})
    folder = workspace.new_run(config.name)
    about = {
        "config": config.model_dump(mode="json"),
        "origins": origins,
        "condition": _condition(dataset, spec) if spec is not None else {},
        "dataset_fingerprint": dataset.fingerprint,
        "versions": {"app": VERSION, "python": platform.python_version(), **{n: metadata.version(n) for n in VERSIONS}},
        **({QUEUE_ENTRIES: [queue_entry]} if queue_entry else {}),
    }
    write_run(folder, about)
    return Run(folder)


def _condition(dataset: Dataset, spec: ConditionSpec) -> dict[str, Any]:
    """The settings of the maps for run.json, so that maps of other images can be made alike."""
    side = spec.resolution or dataset.usual_side()
    return {"type": spec.type, "parameters": spec.parameters, "side": side, "varied": spec.varied}
