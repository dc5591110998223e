"""Images and scores of held-out pairs while a run goes on. They change nothing in it: no weight, no random state."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.conditions import weights
from engine.config import ValidationConfig
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.evaluation import adherence, colour, obedience
from engine.evaluation.image_files import TEMPORARY, settings_text, webp, write_folder
from engine.evaluation.pairs import (
    BATCH,
    Encode,
    Nets,
    Pair,
    Wanted,
    draw,
    read_pair,
    round_trip,
    to_images,
    unnoticed,
)
from engine.evaluation.probes import Probe
from engine.families.registry import Family
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.run import PreviewRecord, read_preview

__all__ = ["TEMPORARY", "Known", "make_previews"]

WITHOUT = "_without_control"
Watching = Callable[[str], AbstractContextManager[None]]
OBEYS = "obeys"


@dataclass
class Known:
    """What stays the same from one set of images to the next, so that it is found only once."""

    best: dict[str, float] = field(default_factory=dict)
    """m_ref of each pair by its key: what its true image reaches after the VAE's round trip."""


def make_previews(
    *,
    family: Family,
    base: str,
    denoiser: Any,
    controlnet: Any,
    samples: Sequence[Sample],
    dataset: Dataset,
    settings: ValidationConfig,
    plan: CropPlan,
    out_folder: Path,
    step: int,
    seed: int = 0,
    encode: Encode | None = None,
    without_control: bool = False,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    batch: int = BATCH,
    probes: Sequence[Probe] = (),
    known: Known | None = None,
    watching: Watching | None = None,
) -> PreviewRecord:
    """Draw the first ``settings.pictures`` samples at fixed seeds and score them.

    Writes out_folder/step-N: NN.webp (the image, with its settings inside), NN-row.webp (map, image, original side
    by side; with ``without_control`` the image without it, too), the same of each probe as pNN, and scores.json;
    under a temporary name, then renamed.

    Args:
        denoiser, controlnet: the resident ones; no second copy is made. The ControlNet's mode is put back afterwards.
        plan: how the images are cut; those of one size are drawn together.
        out_folder: the run's previews folder.
        encode: prompts to text embeddings, "" included, for example the training cache's; without it the text encoder
            is loaded for this call.
        without_control: also draw the same noise with the ControlNet switched off, and score that.
        progress: called as progress(denoising steps done, in all, label).
        batch: images drawn together.
        probes: drawn after the others, and scored apart.
        known: kept by the caller from one call to the next.
        watching: gives what is held while something is read or written, told what that is.

    Returns:
        The record; its images are the rows.

    Raises:
        Cancelled: the token says so; nothing is left behind.
        UserError: an image or map is gone, the disk is full, or the weights are broken.
    """
    known, watch = known or Known(), watching or (lambda what: nullcontext())
    nets = Nets(family, base, denoiser, controlnet, encode)
    by = obedience.yardstick(dataset)
    with unnoticed(nets):
        with watch("Reading the held-out images"):
            pairs = [read_pair(sample, dataset, plan) for sample in samples[: settings.pictures]]
        asked = [Wanted(p.wanted, p.sample.caption, seed + n, settings.strength) for n, p in enumerate(pairs)]
        without = [Wanted(one.map, one.prompt, one.seed, 0.0) for one in asked] if without_control else []
        odd = [Wanted(p.pair.wanted, p.prompt, seed + n, settings.strength) for n, p in enumerate(probes)]
        latents = draw(nets, [*asked, *without, *odd], settings, token, progress, batch)
        with watch("Loading the base's VAE"):
            vae = family.load_vae(base, torch.float32).to(denoiser.device)
        drawn = to_images(nets, vae, latents, token)
        for pair in pairs:
            if pair.sample.key not in known.best:
                known.best[pair.sample.key] = by.score(pair, round_trip(nets, vae, pair.original))
        del vae
    with_control, others, oddly = _split(drawn, len(asked), len(without))
    measures = adherence.scorers(dataset)
    own = obedience.measure(by, pairs, with_control, [known.best[pair.sample.key] for pair in pairs])
    rows = []
    for number, pair in enumerate(pairs):
        scores = adherence.score(measures, pair.sample, pair.wanted, with_control[number])
        scores.setdefault(by.name, own[number].own)
        if without_control:
            scores |= adherence.score(measures, pair.sample, pair.wanted, others[number], WITHOUT)
        rows.append(scores)
    apart = [_probe_scores(probe, image, by, measures) for probe, image in zip(probes, oddly, strict=True)]
    weights.free()  # a measure may have loaded a model of its own
    obeys = obedience.obedience(own)
    mean = adherence.mean(rows) | ({OBEYS: obeys.value} if obeys else {})
    figures = {"obeys_low": obeys.low, "obeys_high": obeys.high} if obeys else {}
    figures |= colour.drift(with_control, [pair.original for pair in pairs]) if pairs else {}
    about = {
        "step": step,
        "pictures": [f"{number:02d}-row.webp" for number in range(len(pairs))],
        "captions": [pair.sample.caption for pair in pairs],
        "mean": mean,
        "figures": figures,
        "samples": [
            {"key": pair.sample.key, "picture": f"{number:02d}.webp", "seed": seed + number, "scores": scores}
            | {"normalising": vars(own[number])}
            for number, (pair, scores) in enumerate(zip(pairs, rows, strict=True))
        ],
        "probes": [
            {"picture": f"p{number:02d}-row.webp", "title": probe.title, "kind": probe.kind, "prompt": probe.prompt}
            | {"key": probe.pair.sample.key, "seed": seed + number, "scores": scores}
            for number, (probe, scores) in enumerate(zip(probes, apart, strict=True))
        ],
        "apart": {kind: adherence.mean(_of_kind(kind, probes, apart)) for kind in {p.kind: 0 for p in probes}},
        "settings": settings.model_dump() | {"resolution": plan.resolution, "without_control": without_control},
    }
    named = [(f"{number:02d}", pair) for number, pair in enumerate(pairs)]
    named += [(f"p{number:02d}", probe.pair) for number, probe in enumerate(probes)]
    shown = [[first, *rest] for first, *rest in zip(with_control, *([others] if without else []), strict=True)]
    shown += [[image] for image in oddly]

    def fill(folder: Path) -> None:
        for (name, pair), one, images in zip(named, [*asked, *odd], shown, strict=True):
            text = _text(one, settings, step)
            row = np.concatenate([pair.wanted, *images, pair.original], axis=1)
            (folder / f"{name}.webp").write_bytes(webp(images[0], text))
            (folder / f"{name}-row.webp").write_bytes(webp(row, text))
        text = json.dumps(about, indent=2, ensure_ascii=False)
        (folder / "scores.json").write_text(text, encoding="utf-8")

    target = out_folder / f"step-{step:06d}"
    with watch(f"Writing the images of step {step:,}"):
        write_folder(target, fill)
    record = read_preview(target)
    assert record is not None, "images that were just written read back"
    return record


def _split(drawn: Sequence[np.ndarray], with_control: int, without: int) -> tuple[list[np.ndarray], ...]:
    end = with_control + without
    return list(drawn[:with_control]), list(drawn[with_control:end]), list(drawn[end:])


def _probe_scores(
    probe: Probe, image: np.ndarray, by: obedience.Yardstick, measures: Sequence[adherence.Scorer]
) -> dict[str, float]:
    """A probe's scores. An image of the user's own that is a map has no true image for the stand-in to look at."""
    pair: Pair = probe.pair
    scores = adherence.score(measures, pair.sample, pair.wanted, image)
    if not (probe.kind == "own" and np.array_equal(pair.wanted, pair.original)):
        scores.setdefault(by.name, by.score(pair, image))
    return scores


def _of_kind(kind: str, probes: Sequence[Probe], rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [row for probe, row in zip(probes, rows, strict=True) if probe.kind == kind]


def _text(one: Wanted, settings: ValidationConfig, step: int) -> str:
    """What the file says of how it was drawn."""
    return settings_text(
        one.prompt, (one.map.shape[1], one.map.shape[0]), steps=settings.sampling_steps,
        cfg_scale=settings.guidance_scale, seed=one.seed, control_strength=one.strength, checkpoint_step=step,
    )  # fmt: skip
