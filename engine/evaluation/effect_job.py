"""Measures the control effect of a checkpoint on a few held-out pairs, much faster than a full evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import weights
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.held_out import split
from engine.errors import UserError
from engine.evaluation import effect
from engine.evaluation.adherence import metric_of
from engine.evaluation.image_files import webp, write_folder
from engine.evaluation.loaded import LowMemoryDrawing, load_models
from engine.evaluation.pairs import ImageRequest, Pair, no_side_effects, read_pair
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.tuning.facts import require_drawn
from engine.workspace.paths import Workspace

PAIRS = 4
JSON = "effect.json"


def effect_folder(run_folder: Path, step: int) -> Path:
    """The folder that ``measure_effect`` writes to."""
    return run_folder / "evaluation" / f"effect-{step:06d}"


def measure_effect(
    workspace: Workspace,
    run: Run,
    checkpoint: Checkpoint,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Draws PAIRS held-out pairs with the right map, a blank one and another's. Writes and returns the result.

    Raises:
        UserError: the dataset or base is gone, or there is no held-out pair.
        Cancelled: nothing is left behind.
    """
    require_drawn(run.config, run.name)
    dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    samples = split(dataset, run.config.data.held_out, run.held_out).held_out[:PAIRS]
    if not samples:
        raise UserError(
            "The control effect cannot be measured.", f"{dataset.name} has no held-out pair.", "Add images."
        )
    plan = CropPlan.of(run.config.data, run.config.train.seed)
    settings, seed = run.config.validation, run.config.train.seed
    pairs = [read_pair(sample, dataset, plan) for sample in samples]
    models = load_models(workspace, run, checkpoint)
    right = [ImageRequest(p.wanted, p.sample.caption, seed + n, settings.strength) for n, p in enumerate(pairs)]
    drawing, requests = LowMemoryDrawing(models), [*right, *effect.wrong_map_requests(pairs, seed, settings.strength)]
    with no_side_effects(models):
        images, _ = drawing.images(requests, settings, token, progress, lambda vae: None)
    count = len(pairs)
    drawn = [images[place : place + count] for place in (0, count, 2 * count)]
    metric = metric_of(dataset)
    found: dict[str, Any] = {"run": run.name, "step": checkpoint.step, "measure": metric.name}
    found["remarks"] = drawing.notes
    found |= effect.measure_images(metric, pairs, *drawn).as_dict()
    weights.free()  # a metric may have loaded a model of its own

    def fill(folder: Path) -> None:
        found["effect_pictures"] = write_rows(folder, pairs, *drawn)
        (folder / JSON).write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")

    write_folder(effect_folder(run.folder, checkpoint.step), fill)
    return found


def write_rows(
    folder: Path,
    pairs: Sequence[Pair],
    right: Sequence[np.ndarray],
    blank: Sequence[np.ndarray],
    swapped: Sequence[np.ndarray],
) -> list[tuple[str, str]]:
    """Writes one image for each pair and returns their names and captions.

    Each shows, from left to right: the map, the image drawn with it, with a blank map, with another map, and that map.
    """
    rows = []
    for number, pair in enumerate(pairs):
        three = [right[number], blank[number], swapped[number]]
        row = np.concatenate([pair.wanted, *three, effect.other_map(pairs, number)], axis=1)
        rows.append((f"effect-{number:02d}.webp", pair.sample.caption))
        (folder / rows[-1][0]).write_bytes(webp(row))
    return rows
