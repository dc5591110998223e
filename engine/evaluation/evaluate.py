"""The thorough look at one checkpoint: does it obey, is it damaged, has it learnt images by heart?

64 pairs and more, each drawn with and without control, some with other seeds and with wrong maps. Takes minutes, so it
is a job of its own. What it finds is kept in the run's folder: evaluation/full-N/report.json and report.html.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import weights
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.held_out import split
from engine.data.samples import Sample
from engine.errors import UserError
from engine.evaluation import adherence, clip, colour, effect, effect_job, nearest, obedience, report
from engine.evaluation.image_files import settings_text, webp, write_folder
from engine.evaluation.loaded import Sparing, load_nets
from engine.evaluation.obedience import Measured, Obedience
from engine.evaluation.pairs import Pair, Wanted, read_pair, round_trip, unnoticed
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.workspace.paths import Workspace

PAIRS, MOST_PAIRS = 64, 512
CLOSER = 8
"""Pairs of which other seeds and wrong maps are drawn, too."""
MORE_SEEDS = 2
SHOWN = 12
FOLDER = "evaluation"


@dataclass(frozen=True)
class _Drawn:
    """Images of the pairs, uint8 RGB: with and without control; of the first CLOSER also what the rest says."""

    right: list[np.ndarray]
    without: list[np.ndarray]
    seeds: list[list[np.ndarray]]
    seeds_without: list[list[np.ndarray]]
    blank: list[np.ndarray]
    swapped: list[np.ndarray]
    best: list[float]
    """m_ref of each pair."""
    remarks: list[str]
    """What was done otherwise for want of memory."""


def report_folder(run: Run, step: int) -> Path:
    return run.folder / FOLDER / f"full-{step:06d}"


def evaluate(
    workspace: Workspace,
    run: Run,
    checkpoint: Checkpoint,
    pairs: int = PAIRS,
    clip_model: str | None = None,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Draw, measure, and write the report; returns it.

    Args:
        pairs: held-out pairs first; where there are too few of them, pairs that it was trained on, named as such.
        clip_model: None: what the run's settings name.
        progress: called as progress(done, total, label).

    Raises:
        UserError: the dataset or base is gone, or there are fewer than two pairs.
        Cancelled: the token says so; nothing is left behind.
    """
    began = time.perf_counter()
    dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    parts = split(dataset, run.config.data.held_out, run.held_out)
    held_out, trained = _choose(parts.held_out, parts.train, max(2, min(pairs, MOST_PAIRS)))
    plan = CropPlan.of(run.config.data, run.config.train.seed)
    chosen = [read_pair(sample, dataset, plan) for sample in [*held_out, *trained]]
    if len(chosen) < 2:
        raise UserError(
            "This checkpoint cannot be evaluated.",
            f"{dataset.name} has {len(chosen)} pairs with maps; two are needed at least.",
            "Add images, or make their maps.",
        )
    by = obedience.yardstick(dataset)
    drawn = _draw(workspace, run, checkpoint, chosen, by, token, progress)
    count = len(held_out)
    # Each group against itself: what a held-out pair scores does not depend on how many others were asked for.
    groups = (slice(0, count), slice(count, None))
    rows = [row for part in groups for row in obedience.measure(by, chosen[part], drawn.right[part], drawn.best[part])]
    measures = adherence.scorers(dataset)
    each = [adherence.score(measures, p.sample, p.wanted, d) for p, d in zip(chosen, drawn.right, strict=True)]
    bare = [adherence.score(measures, p.sample, p.wanted, d) for p, d in zip(chosen, drawn.without, strict=True)]
    meter = effect.effect(by, chosen[:CLOSER], drawn.right[:CLOSER], drawn.blank, drawn.swapped)
    weights.free()  # a measure may have loaded a model of its own
    originals = [pair.original for pair in chosen]
    found: dict[str, Any] = {
        "run": run.name,
        "step": checkpoint.step,
        "pairs": {"held_out": count, "trained_on": len(trained)},
        "measure": by.name,
        "obeys": _plain(obedience.obedience(rows[:count])),
        "obeys_on_training_pairs": _plain(obedience.obedience(rows[count:])),
        "scores": adherence.mean(each),
        "scores_without_control": adherence.mean(bare),
        "control_effect": meter.as_dict(),
        "colour": {
            "against_without_control": colour.drift(drawn.right, drawn.without),
            "against_true_pictures": colour.drift(drawn.right, originals),
        },
        "seed_diversity": {
            "with_control": colour.spread(drawn.seeds),
            "without_control": colour.spread(drawn.seeds_without),
        },
        "nearest": _plain_search(
            nearest.search(dataset, parts.train, drawn.right[:count], originals[:count], token, progress)
        ),
        "clip": _clip(run.config.validation.clip_model if clip_model is None else clip_model, chosen, drawn, token),
        "rows": [{"key": p.sample.key, **vars(row)} for p, row in zip(chosen, rows, strict=True)],
        "settings": run.config.validation.model_dump(mode="json"),
        "remarks": drawn.remarks,
    }
    found["compared"] = _compare(run, checkpoint.step, found["rows"][:count])
    found["seconds"] = round(time.perf_counter() - began, 1)
    _write(run, found, chosen, drawn)
    return found


def _choose(held_out: Sequence[Sample], trained: Sequence[Sample], count: int) -> tuple[list[Sample], list[Sample]]:
    """Held-out samples, then trained ones spread evenly over the set, ``count`` in all where there are so many."""
    first = list(held_out[:count])
    places = min(count - len(first), len(trained))
    return first, [trained[number * len(trained) // places] for number in range(places)]


def _draw(
    workspace: Workspace,
    run: Run,
    checkpoint: Checkpoint,
    pairs: Sequence[Pair],
    by: obedience.Yardstick,
    token: CancelToken | None,
    progress: OnProgress | None,
) -> _Drawn:
    settings, seed = run.config.validation, run.config.train.seed
    nets = load_nets(workspace, run, checkpoint)
    closer = pairs[:CLOSER]
    right = [Wanted(p.wanted, p.sample.caption, seed + n, settings.strength) for n, p in enumerate(pairs)]
    seeds = [
        Wanted(one.map, one.prompt, one.seed + 10_000 * more, one.strength)
        for one in right[: len(closer)]
        for more in range(1, MORE_SEEDS + 1)
    ]
    wrong = effect.variants(closer, seed, settings.strength)
    asked = [*right, *map(_bare, right), *seeds, *map(_bare, seeds), *wrong]
    drawing = Sparing(nets)

    def reached(vae: Any) -> list[float]:
        return [by.score(pair, round_trip(nets, vae, pair.original)) for pair in pairs]

    with unnoticed(nets):
        images, best = drawing.images(asked, settings, token, progress, reached)
    ends = np.cumsum([0, len(right), len(right), len(seeds), len(seeds), len(closer), len(closer)])
    lists = [images[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    return _Drawn(
        lists[0], lists[1], _with_first(lists[0], lists[2]), _with_first(lists[1], lists[3]), lists[4], lists[5], best,
        drawing.words,
    )  # fmt: skip


def _bare(one: Wanted) -> Wanted:
    """The same without control."""
    return Wanted(one.map, one.prompt, one.seed, 0.0)


def _with_first(first: Sequence[np.ndarray], more: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """All seeds of each pair together."""
    count = len(more) // MORE_SEEDS
    return [[first[n], *more[n * MORE_SEEDS : (n + 1) * MORE_SEEDS]] for n in range(count)]


def _plain(found: Obedience | None) -> dict[str, Any] | None:
    return vars(found) if found is not None else None


def _plain_search(found: nearest.Search) -> dict[str, Any]:
    return {
        "drawn": [vars(near) for near in found.drawn], "true_pictures": found.originals,
        "looked_at": found.looked_at, "of": found.of, "suspicious": found.suspicious,
    }  # fmt: skip


def _clip(given: str, pairs: Sequence[Pair], drawn: _Drawn, token: CancelToken | None) -> dict[str, Any]:
    """Scores by CLIP, or what is missing."""
    place = clip.find(given)
    if place is None:
        return {"missing": clip.missing_words(given)}
    try:
        model = weights.held(clip.MODEL, str(place))
        true, right, bare = (
            model.images(images, token) for images in ([pair.original for pair in pairs], drawn.right, drawn.without)
        )
        words = model.words([pair.sample.caption for pair in pairs])
    finally:
        weights.free()
    return {
        "model": str(given or place.name),
        "score": clip.score(right, words),
        "score_without_control": clip.score(bare, words),
        "score_of_true_pictures": clip.score(true, words),
        "cmmd": clip.cmmd(true, right),
        "cmmd_without_control": clip.cmmd(true, bare),
    }


def _compare(run: Run, step: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Against the newest other checkpoint of this run that was evaluated on the same held-out pairs."""
    others = [r for r in report.reports(run.folder / FOLDER) if r["step"] != step]
    for other in sorted(others, key=lambda r: abs(r["step"] - step)):
        theirs = other["rows"][: other["pairs"]["held_out"]]
        if [row["key"] for row in theirs] == [row["key"] for row in rows]:
            gap = obedience.compare(list(map(_measured, theirs)), list(map(_measured, rows)))
            return {"step": other["step"], **vars(gap)} if gap is not None else None
    return None


def _measured(row: dict[str, Any]) -> Measured:
    return Measured(row["own"], row["other"], row["best"])


def _write(run: Run, found: dict[str, Any], pairs: Sequence[Pair], drawn: _Drawn) -> None:
    """Images, report.json, report.html."""
    settings, seed = run.config.validation, run.config.train.seed

    def fill(folder: Path) -> None:
        names = []
        for number, pair in enumerate(pairs[:SHOWN]):
            row = np.concatenate([pair.wanted, drawn.right[number], drawn.without[number], pair.original], axis=1)
            text = settings_text(
                pair.sample.caption, pair.wanted.shape[1::-1], steps=settings.sampling_steps,
                cfg_scale=settings.guidance_scale, seed=seed + number, checkpoint_step=found["step"],
            )  # fmt: skip
            names.append((f"{number:02d}-row.webp", pair.sample.caption))
            (folder / names[-1][0]).write_bytes(webp(row, text))
        meters = effect_job.write_rows(folder, pairs[:CLOSER], drawn.right, drawn.blank, drawn.swapped)
        kept = found | {"pictures": names, "effect_pictures": meters}
        (folder / report.JSON).write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")
        (folder / report.HTML).write_text(report.page(kept), encoding="utf-8")
        found.update(pictures=names, effect_pictures=meters)

    write_folder(report_folder(run, found["step"]), fill)
