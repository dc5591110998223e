"""Does a ControlNet obey on its base with a LoRA in it? Adherence on held-out pairs, with and without the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import weights
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.held_out import split
from engine.errors import UserError
from engine.evaluation import adherence
from engine.evaluation.adherence import Adherence, Metric, PairScores
from engine.evaluation.image_files import webp, write_folder
from engine.evaluation.loaded import LowMemoryDrawing, load_models
from engine.evaluation.pairs import ImageRequest, Pair, no_side_effects, read_pair, round_trip
from engine.evaluation.transfer_report import JSON, transfer_folder
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.tuning.facts import require_drawn
from engine.workspace.base_reference import join, parse_ingredients
from engine.workspace.paths import Workspace

PAIRS = 8


@dataclass(frozen=True)
class Drawn:
    """The pairs as drawn on one base."""

    images: list[np.ndarray]
    scores: list[PairScores]
    remarks: list[str]


def measure_transfer(
    workspace: Workspace,
    run: Run,
    checkpoint: Checkpoint,
    ingredients: str,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Draw PAIRS held-out pairs on the run's base, and on it with more files. Writes and returns the result.

    Args:
        ingredients: LoRA and embedding files, one a line, as ``model.ingredients``; they come after the run's own.

    Raises:
        UserError: no file is named, one does not fit, the dataset or base is gone, or there are too few pairs.
        Cancelled: nothing is left behind.
    """
    require_drawn(run.config, run.name)
    model = run.config.model
    try:
        files = parse_ingredients(ingredients)
    except ValueError as error:
        raise UserError("The files were not read.", f"In the list, {error}.", "Correct the list.") from error
    if not files:
        raise UserError("Nothing was drawn.", "No LoRA or embedding file is named.", "Enter one file per line.")
    dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    samples = split(dataset, run.config.data.held_out, run.held_out).held_out[:PAIRS]
    if len(samples) < 2:
        raise UserError(
            "The transfer cannot be measured.",
            f"{dataset.name} has {counted(len(samples), 'held-out pair')}; at least two are needed.",
            "Add images.",
        )
    plan = CropPlan.of(run.config.data, run.config.train.seed)
    pairs, metric = [read_pair(sample, dataset, plan) for sample in samples], adherence.metric_of(dataset)
    bases = [model.whole_base, join(model.base, [*parse_ingredients(model.ingredients), *files])]
    own, other = (_draw(workspace, run, checkpoint, base, pairs, metric, token, progress) for base in bases)
    weights.free()  # a metric may have loaded a model of its own
    found: dict[str, Any] = {"run": run.name, "step": checkpoint.step, "pairs": len(pairs), "measure": metric.name}
    found |= {"files": [str(one) for one in files], "remarks": [*own.remarks, *other.remarks]}
    found |= {
        "own": _plain(adherence.normalize(own.scores)),
        "other": _plain(adherence.normalize(other.scores)),
        "change": _plain(adherence.compare(own.scores, other.scores)),
    }

    def fill(folder: Path) -> None:
        found["rows"] = []
        for number, pair in enumerate(pairs):
            row = np.concatenate([pair.wanted, own.images[number], other.images[number]], axis=1)
            found["rows"].append((f"transfer-{number:02d}.webp", pair.sample.caption))
            (folder / f"transfer-{number:02d}.webp").write_bytes(webp(row))
        (folder / JSON).write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")

    write_folder(transfer_folder(run.folder, checkpoint.step), fill)
    return found


def _draw(
    workspace: Workspace,
    run: Run,
    checkpoint: Checkpoint,
    base: str,
    pairs: Sequence[Pair],
    metric: Metric,
    token: CancelToken | None,
    progress: OnProgress | None,
) -> Drawn:
    settings, seed = run.config.validation, run.config.train.seed
    models = load_models(workspace, run, checkpoint, base)
    requests = [ImageRequest(p.wanted, p.sample.caption, seed + n, settings.strength) for n, p in enumerate(pairs)]
    drawing = LowMemoryDrawing(models)

    def references(vae: Any) -> list[float]:
        return [metric.score(pair, round_trip(models, vae, pair.original)) for pair in pairs]

    with no_side_effects(models):
        images, best = drawing.images(requests, settings, token, progress, references)
    return Drawn(images, adherence.score_pairs(metric, pairs, images, best), drawing.notes)


def _plain(found: Adherence | None) -> dict[str, Any] | None:
    return vars(found) if found is not None else None
