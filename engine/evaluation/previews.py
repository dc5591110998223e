"""Preview images of a run: draws the held-out pairs, scores them, and writes both. Does not affect the training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import weights
from engine.config import ValidationConfig
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.evaluation import colour
from engine.evaluation.adherence import (
    Metric,
    PairScores,
    Scorer,
    compare,
    mean_scores,
    metric_of,
    normalize,
    score_image,
    score_pairs,
    scorers,
)
from engine.evaluation.fewer_steps import GAP
from engine.evaluation.image_files import settings_text, webp, write_folder
from engine.evaluation.pairs import (
    BATCH,
    ImageRequest,
    Models,
    Pair,
    draw,
    no_side_effects,
    read_pair,
    round_trip,
    to_images,
)
from engine.evaluation.probes import Probe
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.run import PreviewRecord, read_preview

WITHOUT_SUFFIX = "_without_control"
OBEYS = "obeys"
"""Key of the adherence in files and events."""
DiskWatch = Callable[[str], AbstractContextManager[None]]
"""Called with a description of some reading or writing. Held open until it is done."""


@dataclass(frozen=True)
class PreviewRequest:
    """A set of preview images to draw, and the folder to write them to."""

    samples: Sequence[Sample]
    """Held-out samples. The first ``settings.pictures`` are drawn."""
    dataset: Dataset
    settings: ValidationConfig
    plan: CropPlan
    out_folder: Path
    """The run's folder of previews."""
    step: int
    seed: int = 0
    without_control: bool = False
    """Draw and score each image also with the ControlNet switched off, from the same noise."""
    batch: int = BATCH
    """Number of images that are drawn together."""
    probes: Sequence[Probe] = ()
    """Images to draw in addition to the pairs. Their scores are kept separate."""
    reference: Sequence[PairScores] = ()
    """Scores of the same pairs drawn in another way, with which these are compared; empty: with none."""
    trained: Sequence[Sample] = ()
    """Training images with which drawn ones are compared, where that shows memorizing."""


@dataclass
class PreviewCache:
    """Keeps, from one set of images to the next, what does not change."""

    best: dict[str, float] = field(default_factory=dict)
    """m_ref of each pair (see adherence.py), by the sample's key."""
    vae: Any = None
    """The base's VAE, in RAM while it is not in use."""
    hashes: dict[str, int] = field(default_factory=dict)
    """Of training images, by key (nearest.py)."""


@dataclass(frozen=True)
class _Drawn:
    """Images, uint8 RGB, of the pairs and of the probes, with the requests that they were drawn from."""

    pairs: list[Pair]
    requests: list[ImageRequest]
    images: list[np.ndarray]
    without_control: list[np.ndarray]
    probe_requests: list[ImageRequest]
    probe_images: list[np.ndarray]
    best: list[float]
    """m_ref of each pair."""


def make_previews(
    models: Models,
    request: PreviewRequest,
    *,
    cache: PreviewCache | None = None,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    watch: DiskWatch | None = None,
) -> PreviewRecord:
    """Draws the pairs and probes from fixed seeds, scores them, and writes a folder.

    The folder, step-N in ``request.out_folder``, has NN.webp (the image, with its settings inside), NN-row.webp (map,
    image, image without control if asked for, and original, side by side), the same of each probe as pNN, and
    scores.json. It appears only when it is complete.

    Args:
        models: no copy of them is made.
        cache: pass the same object for all sets of images of a run.
        progress: called as progress(denoising steps done, total, label).

    Returns:
        The record. Its images are the rows.

    Raises:
        Cancelled: the token was cancelled. Nothing is left behind.
        UserError: an image or map is gone, the disk is full, or the weights are broken.
    """
    watch = watch or (lambda what: nullcontext())
    metric = metric_of(request.dataset)
    drawn = _draw(models, request, metric, cache or PreviewCache(), token, progress, watch)
    about = _scores(request, metric, drawn)
    target = request.out_folder / f"step-{request.step:06d}"
    with watch(f"Writing the images of step {request.step:,}"):
        write_folder(target, lambda folder: _write(folder, request, drawn, about))
    record = read_preview(target)
    assert record is not None, "images that were just written can be read"
    return record


def reference_scores(
    models: Models,
    request: PreviewRequest,
    cache: PreviewCache,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> list[PairScores]:
    """Scores of the pairs alone, drawn from the same seeds, for ``PreviewRequest.reference``. Nothing is written."""
    metric = metric_of(request.dataset)
    drawn = _draw(models, replace(request, probes=()), metric, cache, token, progress, lambda what: nullcontext())
    return score_pairs(metric, drawn.pairs, drawn.images, drawn.best)


def _draw(
    models: Models,
    request: PreviewRequest,
    metric: Metric,
    cache: PreviewCache,
    token: CancelToken | None,
    progress: OnProgress | None,
    watch: DiskWatch,
) -> _Drawn:
    settings, seed = request.settings, request.seed
    with no_side_effects(models):
        with watch("Reading the held-out images"):
            pairs = [
                read_pair(sample, request.dataset, request.plan) for sample in request.samples[: settings.pictures]
            ]
        own = [ImageRequest(p.wanted, p.sample.caption, seed + n, settings.strength) for n, p in enumerate(pairs)]
        without = [one.without_control() for one in own] if request.without_control else []
        probes = [
            ImageRequest(
                probe.pair.wanted,
                probe.prompt,
                seed + n,
                settings.strength,
                settings.probe_steps if probe.kind != "own" else 0,
            )
            for n, probe in enumerate(request.probes)
        ]
        latents = draw(models, [*own, *without, *probes], settings, token, progress, request.batch)
        if cache.vae is None:
            with watch("Loading the base's VAE"):
                cache.vae = models.family.load_vae(models.base)
        try:
            vae = cache.vae.to(models.denoiser.device)
            images = to_images(models, vae, latents, token)
            for pair in pairs:
                if pair.sample.key not in cache.best:
                    cache.best[pair.sample.key] = metric.score(pair, round_trip(models, vae, pair.original))
        finally:
            cache.vae.to("cpu").disable_tiling()  # on if memory was short
    count, end = len(own), len(own) + len(without)
    best = [cache.best[pair.sample.key] for pair in pairs]
    return _Drawn(pairs, own, images[:count], images[count:end], probes, images[end:], best)


def _scores(request: PreviewRequest, metric: Metric, drawn: _Drawn) -> dict[str, Any]:
    """The content of scores.json."""
    measures = scorers(request.dataset)
    normalising = score_pairs(metric, drawn.pairs, drawn.images, drawn.best)
    rows = _pair_scores(metric, measures, drawn, normalising)
    probe_rows = [
        _probe_scores(probe, image, metric, measures)
        for probe, image in zip(request.probes, drawn.probe_images, strict=True)
    ]
    weights.free()  # a metric may have loaded a model of its own
    adherence = normalize(normalising)
    figures = {"obeys_low": adherence.low, "obeys_high": adherence.high} if adherence else {}
    if request.reference and adherence and (gap := compare(request.reference, normalising)):
        figures |= {GAP: gap.value, "gap_low": gap.low, "gap_high": gap.high, "reference": adherence.value - gap.value}
    figures |= colour.drift(drawn.images, [pair.original for pair in drawn.pairs]) if drawn.pairs else {}
    kinds = dict.fromkeys(probe.kind for probe in request.probes)
    return {
        "step": request.step,
        "pictures": [f"{number:02d}-row.webp" for number in range(len(drawn.pairs))],
        "captions": [pair.sample.caption for pair in drawn.pairs],
        "mean": mean_scores(rows) | ({OBEYS: adherence.value} if adherence else {}),
        "figures": figures,
        "samples": [
            {"key": pair.sample.key, "picture": f"{number:02d}.webp", "seed": request.seed + number, "scores": scores}
            | {"normalising": vars(normalising[number])}
            for number, (pair, scores) in enumerate(zip(drawn.pairs, rows, strict=True))
        ],
        "probes": [
            {"picture": f"p{number:02d}-row.webp", "title": probe.title, "kind": probe.kind, "prompt": probe.prompt}
            | {"key": probe.pair.sample.key, "seed": request.seed + number, "scores": scores}
            for number, (probe, scores) in enumerate(zip(request.probes, probe_rows, strict=True))
        ],
        "apart": {kind: mean_scores(_of_kind(kind, request.probes, probe_rows)) for kind in kinds},
        "settings": request.settings.model_dump()
        | {"resolution": request.plan.resolution, "without_control": request.without_control},
    }


def _pair_scores(
    metric: Metric, measures: Sequence[Scorer], drawn: _Drawn, normalising: Sequence[PairScores]
) -> list[dict[str, float]]:
    """All scores of each pair."""
    rows = []
    for number, pair in enumerate(drawn.pairs):
        scores = score_image(measures, pair.sample, pair.wanted, drawn.images[number])
        scores.setdefault(metric.name, normalising[number].own)
        if drawn.without_control:
            bare = drawn.without_control[number]
            scores |= score_image(measures, pair.sample, pair.wanted, bare, WITHOUT_SUFFIX)
        rows.append(scores)
    return rows


def _probe_scores(probe: Probe, image: np.ndarray, metric: Metric, measures: Sequence[Scorer]) -> dict[str, float]:
    """A probe's scores. A user's own map comes without an original whose contours could be compared."""
    pair = probe.pair
    scores = score_image(measures, pair.sample, pair.wanted, image)
    if not (probe.kind == "own" and np.array_equal(pair.wanted, pair.original)):
        scores.setdefault(metric.name, metric.score(pair, image))
    return scores


def _of_kind(kind: str, probes: Sequence[Probe], rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [row for probe, row in zip(probes, rows, strict=True) if probe.kind == kind]


def _write(folder: Path, request: PreviewRequest, drawn: _Drawn, about: dict[str, Any]) -> None:
    """Writes all images and scores.json."""
    for number, (pair, one) in enumerate(zip(drawn.pairs, drawn.requests, strict=True)):
        images = [drawn.images[number], *drawn.without_control[number : number + 1]]
        _write_image(folder, f"{number:02d}", pair, one, images, request)
    for number, (probe, one) in enumerate(zip(request.probes, drawn.probe_requests, strict=True)):
        _write_image(folder, f"p{number:02d}", probe.pair, one, [drawn.probe_images[number]], request)
    (folder / "scores.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_image(
    folder: Path, name: str, pair: Pair, one: ImageRequest, images: Sequence[np.ndarray], request: PreviewRequest
) -> None:
    """Writes the first image and, as the row, map, images and original."""
    settings = request.settings
    text = settings_text(
        one.prompt,
        (one.map.shape[1], one.map.shape[0]),
        steps=one.steps or settings.sampling_steps,
        cfg_scale=settings.guidance_scale,
        seed=one.seed,
        control_strength=one.strength,
        checkpoint_step=request.step,
    )
    row = np.concatenate([pair.wanted, *images, pair.original], axis=1)
    (folder / f"{name}.webp").write_bytes(webp(images[0], text))
    (folder / f"{name}-row.webp").write_bytes(webp(row, text))
