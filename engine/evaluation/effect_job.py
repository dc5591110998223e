"""The control-effect meter as a job of its own: a few held-out pairs, in a small part of a whole evaluation's time."""

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
from engine.evaluation import effect, obedience
from engine.evaluation.image_files import webp, write_folder
from engine.evaluation.loaded import Sparing, load_nets
from engine.evaluation.pairs import Pair, Wanted, read_pair, unnoticed
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.workspace.paths import Workspace

PAIRS = 4
JSON = "effect.json"


def effect_folder(run_folder: Path, step: int) -> Path:
    return run_folder / "evaluation" / f"effect-{step:06d}"


def measure_effect(
    workspace: Workspace,
    run: Run,
    checkpoint: Checkpoint,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Draw PAIRS held-out pairs with the right map, a blank and a wrong one; writes and returns what is found.

    Raises:
        UserError: the dataset or base is gone, or there is no held-out pair. Cancelled: nothing is left behind.
    """
    dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    samples = split(dataset, run.config.data.held_out, run.held_out).held_out[:PAIRS]
    if not samples:
        raise UserError(
            "The control effect cannot be measured.", f"{dataset.name} has no held-out pair.", "Add images."
        )
    plan = CropPlan.of(run.config.data, run.config.train.seed)
    settings, seed = run.config.validation, run.config.train.seed
    pairs = [read_pair(sample, dataset, plan) for sample in samples]
    nets = load_nets(workspace, run, checkpoint)
    right = [Wanted(p.wanted, p.sample.caption, seed + n, settings.strength) for n, p in enumerate(pairs)]
    drawing, asked = Sparing(nets), [*right, *effect.variants(pairs, seed, settings.strength)]
    with unnoticed(nets):
        images, _ = drawing.images(asked, settings, token, progress, lambda vae: None)
    count = len(pairs)
    drawn = [images[place : place + count] for place in (0, count, 2 * count)]
    by = obedience.yardstick(dataset)
    found: dict[str, Any] = {"run": run.name, "step": checkpoint.step, "measure": by.name}
    found["remarks"] = drawing.words
    found |= effect.effect(by, pairs, *drawn).as_dict()
    weights.free()  # a measure may have loaded a model of its own

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
    """An image a pair: the map; drawn with it, with a blank one, with the other map; the other. Names, captions."""
    rows = []
    for number, pair in enumerate(pairs):
        three = [right[number], blank[number], swapped[number]]
        row = np.concatenate([pair.wanted, *three, effect.other_map(pairs, number)], axis=1)
        rows.append((f"effect-{number:02d}.webp", pair.sample.caption))
        (folder / rows[-1][0]).write_bytes(webp(row))
    return rows
