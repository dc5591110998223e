"""Reads what the cautions need: counts of the dataset's index, earlier measurements, the disk. No image, no torch."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from engine.config import RunConfig
from engine.config.presets import resolve
from engine.data.balance import ImageClass, classes_of
from engine.data.captions import has_word
from engine.data.dataset import Dataset
from engine.data.doctor.check_store import CheckStore, maps_of
from engine.data.doctor.lost_lines import LINES_LOST
from engine.demo.sets import demo_preset, is_of_demo_shapes
from engine.estimate import trials
from engine.estimate.estimate import checkpoint_bytes, long_captions, run_seconds
from engine.estimate.memory import predict
from engine.evaluation.recorded_runs import recorded_runs
from engine.families.files import configs_at, denoiser_parameters, family_of, lacks_optional_text, made_for
from engine.machine.hardware import Hardware
from engine.runs.known_bases import known_error
from engine.training.caution import StartFacts
from engine.tuning.facts import facts_of
from engine.tuning.requirements import tokens_of, unknown_tokens
from engine.workspace.paths import Workspace, bundled_bases


def start_facts(workspace: Workspace, config: RunConfig, hardware: Hardware) -> StartFacts:
    """The facts about a run that could start (see ``new_run.missing``). Takes some hundredths of a second.

    Raises:
        UserError: the dataset or the base is gone.
    """
    dataset = Dataset.open(workspace.dataset_folder(config.data.dataset))
    located = workspace.locate_base(config.model.base)
    on_demo_base = located in map(str, bundled_bases().values())
    listed = dataset.count()
    needed = predict(workspace, config, listed, long_captions(config, workspace))
    begun = tokens_of(config.tuning.begun_as) if config.tuning.what == "word" else ()
    found = _found(dataset)
    if found and not configs_at(located).facts.control_is_encoded:
        found = {name: count for name, count in found.items() if name != LINES_LOST.name}  # of another base
    seconds, measured = run_seconds(config, workspace, hardware)
    return StartFacts(
        listed=listed,
        images=dataset.count(ready=facts_of(config).needs_condition_maps),
        too_small=dataset.count_smaller(config.data.resolution),
        without_caption=dataset.captions.count(dataset.index.path, "empty"),
        without_word=_without_word(dataset, config.tuning.caption_word),
        begun_tokens=begun,
        begun_unknown=unknown_tokens(begun, located),
        found=found or {},
        checked=found is not None,
        own_shapes=is_of_demo_shapes(workspace, dataset.source),
        on_demo_base=on_demo_base,
        parameters=denoiser_parameters(workspace, config.model.base),
        base_side=made_for(located),
        lacks_optional_text=lacks_optional_text(located),
        base_error=_base_error(workspace, config, hardware),
        demo_rate=_demo_rate(family_of(workspace, config.model.base), config.tuning.what) if on_demo_base else 0.0,
        disk_needed=checkpoint_bytes(config, needed) + needed.cache,
        disk_free=workspace.free_bytes(),
        classes=() if config.data.balance == "off" else _classes(dataset, config),
        seconds_per_image=seconds / (config.train.steps * config.images_per_step),
        measured=measured,
        on_card=hardware.vram_gib is not None,
        recorded=recorded_runs(workspace, config, dataset.condition.type) if dataset.condition is not None else (),
    )


def _found(dataset: Dataset) -> Mapping[str, int] | None:
    """Findings of the dataset check. None: it was never run, or something was corrected or left out,
    or maps were made, since."""
    store = CheckStore(dataset.folder)
    try:
        about = store.about() if store.exists else {}
        now = maps_of(dataset)
        current = about.get("fingerprint") == dataset.fingerprint and about.get("maps", now) == now
        return store.counts() if current else None
    except sqlite3.Error:  # only a cache: the next check writes it again, and reports if it cannot
        return None


def _without_word(dataset: Dataset, word: str) -> int:
    return sum(not has_word(sample.caption, word) for sample in dataset.samples(ready=False)) if word else 0


def _classes(dataset: Dataset, config: RunConfig) -> tuple[ImageClass, ...]:
    samples = dataset.samples(ready=facts_of(config).needs_condition_maps)
    return classes_of(samples, config.data) if samples else ()


def _base_error(workspace: Workspace, config: RunConfig, hardware: Hardware) -> float | None:
    error = known_error(workspace, config.model.base, config.data.dataset, config.data.resolution)
    if error is not None:
        return error
    trial = trials.read(workspace, config, hardware.name)
    return trial.base_error if trial is not None and trial.dataset == config.data.dataset else None


def _demo_rate(family: str, what: str) -> float:
    return resolve(*demo_preset().layers(family, what))[0].optim.learning_rate
