"""The full evaluation of one checkpoint: does it follow its control images, is it damaged, has it memorized images?

Draws 64 or more pairs, each with and without control, some also from other seeds and with wrong maps. That takes
minutes, so it is a job of its own. The result is kept in the run's folder: evaluation/full-N/report.json, report.html.
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
from engine.evaluation import adherence, clip, colour, effect, effect_job, nearest, report, set_distances
from engine.evaluation.adherence import Adherence, Metric, PairScores, mean_scores, score_image, score_pairs
from engine.evaluation.image_files import settings_text, webp, write_folder
from engine.evaluation.loaded import LowMemoryDrawing, load_models
from engine.evaluation.pairs import ImageRequest, Pair, no_side_effects, read_pair, round_trip
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.tuning.facts import require_drawn
from engine.workspace.paths import Workspace

PAIRS, MAX_PAIRS = 64, 512
DETAILED_PAIRS = 8
"""Number of pairs that are also drawn from other seeds and with wrong maps."""
MORE_SEEDS = 2
SHOWN = 12
FOLDER = "evaluation"


@dataclass(frozen=True)
class _Drawn:
    """Drawn images, uint8 RGB. All pairs have ``right`` and ``without``, the first DETAILED_PAIRS also the others."""

    right: list[np.ndarray]
    without: list[np.ndarray]
    seeds: list[list[np.ndarray]]
    seeds_without: list[list[np.ndarray]]
    blank: list[np.ndarray]
    swapped: list[np.ndarray]
    best: list[float]
    """m_ref of each pair."""
    remarks: list[str]
    """What was reduced to save memory."""


def report_folder(run: Run, step: int) -> Path:
    """The folder that ``evaluate`` writes to."""
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
    """Draws, measures, and writes the report. Returns it.

    Args:
        pairs: held-out pairs come first. If there are too few, training pairs are added and reported separately.
        clip_model: None: the one in the run's settings.
        progress: called as progress(done, total, label).

    Raises:
        UserError: the dataset or base is gone, or there are fewer than two pairs.
        Cancelled: the token was cancelled. Nothing is left behind.
    """
    began = time.perf_counter()
    require_drawn(run.config, run.name)
    dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    parts = split(dataset, run.config.data.held_out, run.held_out)
    held_out, trained = _choose(parts.held_out, parts.train, max(2, min(pairs, MAX_PAIRS)))
    plan = CropPlan.of(run.config.data, run.config.train.seed)
    chosen = [read_pair(sample, dataset, plan) for sample in [*held_out, *trained]]
    if len(chosen) < 2:
        raise UserError(
            "This checkpoint cannot be evaluated.",
            f"The dataset {dataset.name} has {counted(len(chosen), 'pair')} with condition maps; at least "
            "two are needed.",
            "Add images, or make maps for the existing ones.",
        )
    metric = adherence.metric_of(dataset)
    drawn = _draw(workspace, run, checkpoint, chosen, metric, token, progress)
    count = len(held_out)
    # Each group separately: the score of a held-out pair must not depend on how many other pairs were asked for.
    groups = (slice(0, count), slice(count, None))
    rows = [row for part in groups for row in score_pairs(metric, chosen[part], drawn.right[part], drawn.best[part])]
    measures = adherence.scorers(dataset)
    each = [score_image(measures, p.sample, p.wanted, d) for p, d in zip(chosen, drawn.right, strict=True)]
    bare = [score_image(measures, p.sample, p.wanted, d) for p, d in zip(chosen, drawn.without, strict=True)]
    detailed = chosen[:DETAILED_PAIRS]
    meter = effect.measure_images(metric, detailed, drawn.right[:DETAILED_PAIRS], drawn.blank, drawn.swapped)
    weights.free()  # a metric may have loaded a model of its own
    originals = [pair.original for pair in chosen]
    found: dict[str, Any] = {
        "run": run.name,
        "step": checkpoint.step,
        "pairs": {"held_out": count, "trained_on": len(trained)},
        "measure": metric.name,
        "obeys": _plain(adherence.normalize(rows[:count])),
        "obeys_on_training_pairs": _plain(adherence.normalize(rows[count:])),
        "scores": mean_scores(each),
        "scores_without_control": mean_scores(bare),
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
    """At most ``count`` samples: held-out ones, then training samples spread evenly over the dataset."""
    first = list(held_out[:count])
    places = min(count - len(first), len(trained))
    return first, [trained[number * len(trained) // places] for number in range(places)]


def _draw(
    workspace: Workspace,
    run: Run,
    checkpoint: Checkpoint,
    pairs: Sequence[Pair],
    metric: Metric,
    token: CancelToken | None,
    progress: OnProgress | None,
) -> _Drawn:
    """Draws everything that the evaluation needs in one pass, so that the models are loaded once."""
    settings, seed = run.config.validation, run.config.train.seed
    models = load_models(workspace, run, checkpoint)
    detailed = pairs[:DETAILED_PAIRS]
    right = [ImageRequest(p.wanted, p.sample.caption, seed + n, settings.strength) for n, p in enumerate(pairs)]
    seeds = [
        ImageRequest(one.map, one.prompt, one.seed + 10_000 * more, one.strength)
        for one in right[: len(detailed)]
        for more in range(1, MORE_SEEDS + 1)
    ]
    wrong = effect.wrong_map_requests(detailed, seed, settings.strength)
    groups = [
        right,
        [one.without_control() for one in right],
        seeds,
        [one.without_control() for one in seeds],
        wrong[: len(detailed)],
        wrong[len(detailed) :],
    ]
    drawing = LowMemoryDrawing(models)

    def reference_scores(vae: Any) -> list[float]:
        return [metric.score(pair, round_trip(models, vae, pair.original)) for pair in pairs]

    with no_side_effects(models):
        requests = [one for group in groups for one in group]
        images, best = drawing.images(requests, settings, token, progress, reference_scores)
    ends = np.cumsum([0, *map(len, groups)])
    lists = [images[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    return _Drawn(
        right=lists[0],
        without=lists[1],
        seeds=_with_first(lists[0], lists[2]),
        seeds_without=_with_first(lists[1], lists[3]),
        blank=lists[4],
        swapped=lists[5],
        best=best,
        remarks=drawing.notes,
    )


def _with_first(first: Sequence[np.ndarray], more: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """For each pair, the images of all its seeds."""
    count = len(more) // MORE_SEEDS
    return [[first[n], *more[n * MORE_SEEDS : (n + 1) * MORE_SEEDS]] for n in range(count)]


def _plain(found: Adherence | None) -> dict[str, Any] | None:
    return vars(found) if found is not None else None


def _plain_search(found: nearest.SearchResult) -> dict[str, Any]:
    return {
        "drawn": [vars(match) for match in found.drawn],
        "true_pictures": found.originals,
        "looked_at": found.looked_at,
        "of": found.of,
        "suspicious": found.suspicious,
    }


def _clip(model_name: str, pairs: Sequence[Pair], drawn: _Drawn, token: CancelToken | None) -> dict[str, Any]:
    """CLIP scores, or a sentence about the missing model."""
    place = clip.find(model_name)
    if place is None:
        return {"missing": clip.missing_text(model_name)}
    try:
        model = weights.loaded(clip.MODEL, str(place))
        true, right, bare = (
            model.images(images, token) for images in ([pair.original for pair in pairs], drawn.right, drawn.without)
        )
        texts = model.texts([pair.sample.caption for pair in pairs])
    finally:
        weights.free()
    return {
        "model": str(model_name or place.name),
        "score": clip.score(right, texts),
        "score_without_control": clip.score(bare, texts),
        "score_of_true_pictures": clip.score(true, texts),
        "cmmd": clip.cmmd(true, right),
        "cmmd_without_control": clip.cmmd(true, bare),
    } | distances(true, right, bare)


def distances(true: np.ndarray, right: np.ndarray, bare: np.ndarray) -> dict[str, Any]:
    """KID and FID of CLIP embeddings (n, d), scaled to the length sqrt(d) that KID's kernel is made for."""
    scale = true.shape[1] ** 0.5
    found: dict[str, Any] = {"fid_missing": set_distances.why_no_fid(len(true))}
    for end, rows in (("", right), ("_without_control", bare)):
        if len(true) >= 4:
            near = set_distances.kid(true * scale, rows * scale)
            found |= {f"kid{end}": near.value, f"kid_spread{end}": near.spread}
        if not found["fid_missing"]:
            found[f"fid{end}"] = set_distances.fid(true * scale, rows * scale)
    return found


def _compare(run: Run, step: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Compares with the nearest other checkpoint of this run that was evaluated on the same held-out pairs."""
    others = [r for r in report.reports(run.folder / FOLDER) if r["step"] != step]
    for other in sorted(others, key=lambda r: abs(r["step"] - step)):
        theirs = other["rows"][: other["pairs"]["held_out"]]
        if [row["key"] for row in theirs] == [row["key"] for row in rows]:
            gap = adherence.compare(list(map(_pair_scores, theirs)), list(map(_pair_scores, rows)))
            return {"step": other["step"], **vars(gap)} if gap is not None else None
    return None


def _pair_scores(row: dict[str, Any]) -> PairScores:
    return PairScores(row["own"], row["other"], row["best"])


def _write(run: Run, found: dict[str, Any], pairs: Sequence[Pair], drawn: _Drawn) -> None:
    """Writes the images, report.json and report.html. Adds the names of the images to ``found``."""
    settings, seed = run.config.validation, run.config.train.seed

    def fill(folder: Path) -> None:
        names = []
        for number, pair in enumerate(pairs[:SHOWN]):
            row = np.concatenate([pair.wanted, drawn.right[number], drawn.without[number], pair.original], axis=1)
            text = settings_text(
                pair.sample.caption,
                pair.wanted.shape[1::-1],
                steps=settings.sampling_steps,
                cfg_scale=settings.guidance_scale,
                seed=seed + number,
                checkpoint_step=found["step"],
            )
            names.append((f"{number:02d}-row.webp", pair.sample.caption))
            (folder / names[-1][0]).write_bytes(webp(row, text))
        meters = effect_job.write_rows(folder, pairs[:DETAILED_PAIRS], drawn.right, drawn.blank, drawn.swapped)
        found.update(pictures=names, effect_pictures=meters)
        (folder / report.JSON).write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
        (folder / report.HTML).write_text(report.page(found), encoding="utf-8")

    write_folder(report_folder(run, found["step"]), fill)
