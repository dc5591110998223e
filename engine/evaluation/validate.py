"""Pictures and scores of held-out pairs while a run goes on. They change nothing in it: no weight, no random state."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.conditions import registry, weights
from engine.config import ValidationConfig
from engine.data.cache import cropped_hint, cropped_image
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.images import replace_bytes
from engine.data.samples import CancelToken, Progress, Sample
from engine.evaluation import adherence
from engine.families import Family
from engine.runs import PreviewRecord, read_preview
from engine.sampling import Drawing, Text, decode, draw_latents, free_memory, to_hint

TEMPORARY = ".drawing-"
BATCH = 4
WEBP_QUALITY = 90
WITHOUT = "_without_control"

Encode = Callable[[Sequence[str]], Text]


@dataclass(frozen=True)
class _Pair:
    """One held-out pair as the net sees it, uint8 RGB."""

    sample: Sample
    wanted: np.ndarray
    original: np.ndarray


def make_previews(
    *,
    family: Family,
    base: str,
    unet: Any,
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
    progress: Progress | None = None,
    batch: int = BATCH,
) -> PreviewRecord:
    """Draw the first ``settings.pictures`` samples at fixed seeds and score them.

    Writes out_folder/step-N: NN.webp (the picture), NN-row.webp (map, picture, original side by side; with
    ``without_control`` the picture without it, too) and scores.json; under a temporary name, then renamed.

    Args:
        unet, controlnet: the resident ones; no second copy is made. The ControlNet's mode is put back afterwards.
        plan: how the pictures are cut; those of one size are drawn together.
        out_folder: the run's previews folder.
        encode: captions to text embeddings, B in front, "" included, for example the training cache's; without it the
            text encoder is loaded for this call.
        without_control: also draw the same noise with the ControlNet switched off, and score that.
        progress: called as progress(denoising steps done, in all, label).
        batch: pictures drawn together.

    Returns:
        The record; its pictures are the rows.

    Raises:
        Cancelled: the token says so; nothing is left behind.
        UserError: a picture or map is gone, the disk is full, or the weights are broken.
    """
    chosen = samples[: settings.pictures]
    target = out_folder / f"step-{step:06d}"
    devices = [unet.device] if unet.device.type == "cuda" else []
    training = controlnet.training
    controlnet.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            pairs = [_read(sample, dataset, plan) for sample in chosen]
            strengths = [settings.strength, 0.0] if without_control else [settings.strength]
            latents = _draw(
                family, base, unet, controlnet, pairs, settings, strengths, seed, encode, token, progress, batch
            )
            vae = family.load_vae(base, torch.float32).to(unet.device)
            drawn = [[np.asarray(picture) for picture in decode(family, vae, rows, token)] for rows in latents]
            del vae
    finally:
        controlnet.train(training)
        free_memory()
    measures = adherence.scorers(dataset)
    rows = []
    for number, pair in enumerate(pairs):
        scores = adherence.score(measures, pair.sample, pair.wanted, drawn[0][number])
        if without_control:
            scores |= adherence.score(measures, pair.sample, pair.wanted, drawn[1][number], WITHOUT)
        rows.append(scores)
    weights.free()  # a measure may have loaded a model of its own
    about = {
        "step": step,
        "pictures": [f"{number:02d}-row.webp" for number in range(len(pairs))],
        "captions": [pair.sample.caption for pair in pairs],
        "mean": adherence.mean(rows),
        "samples": [
            {"key": pair.sample.key, "picture": f"{number:02d}.webp", "seed": seed + number, "scores": scores}
            for number, (pair, scores) in enumerate(zip(pairs, rows, strict=True))
        ],
        "settings": settings.model_dump() | {"resolution": plan.resolution, "without_control": without_control},
    }
    _write(target, pairs, drawn, about)
    record = read_preview(target)
    assert record is not None, "pictures that were just written read back"
    return record


def _read(sample: Sample, dataset: Dataset, plan: CropPlan) -> _Pair:
    """The pair in its own bucket's size; of random crops the centre, so that every step shows the same."""
    nearest = dataset.condition is not None and registry.get(dataset.condition.type).categorical
    crop = plan.crop(sample)
    wanted = cropped_hint(dataset.condition_path(sample), crop, nearest)
    return _Pair(sample, wanted, np.asarray(cropped_image(sample, crop)))


def _draw(
    family: Family,
    base: str,
    unet: Any,
    controlnet: Any,
    pairs: Sequence[_Pair],
    settings: ValidationConfig,
    strengths: Sequence[float],
    seed: int,
    encode: Encode | None,
    token: CancelToken | None,
    progress: Progress | None,
    batch: int,
) -> list[list[torch.Tensor]]:
    """Latents (4, h, w) of every pair, one list for each strength. Text encoder and VAE are not in memory meanwhile."""
    captions = [pair.sample.caption for pair in pairs]
    encode = encode or _encoder(family, base, unet.device)
    text, negative = encode(captions), encode([""])
    del encode  # and with it a text encoder that was loaded for this
    resident = {"unet": unet, "vae": None, "text_encoder": None, "tokenizer": None}
    pipeline = family.pipeline(base, controlnet, unet.dtype, **resident)
    total, done = settings.sampling_steps * len(pairs) * len(strengths), 0
    lists = []
    for strength in strengths:
        how = Drawing(settings.sampling_steps, settings.guidance_scale, strength)
        drawn: dict[int, torch.Tensor] = {}
        for numbers in _batches(pairs, batch):

            def on_step(steps: int, before: int = done, count: int = len(numbers)) -> None:
                if progress:
                    progress(before + steps * count, total, "Drawing control pictures")

            rows = {name: values[numbers] for name, values in text.items()}
            maps = [pairs[number].wanted for number in numbers]
            hints = torch.stack([to_hint(wanted, *wanted.shape[1::-1]) for wanted in maps])
            seeds = [seed + number for number in numbers]
            latents = draw_latents(family, pipeline, rows, negative, hints, seeds, how, token, on_step).cpu()
            drawn.update(zip(numbers, latents, strict=True))
            done += settings.sampling_steps * len(numbers)
        lists.append([drawn[number] for number in range(len(pairs))])
    return lists


def _batches(pairs: Sequence[_Pair], most: int) -> list[list[int]]:
    """Numbers of the pairs, at most ``most`` together and all of one size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        by_size.setdefault(pair.wanted.shape, []).append(number)
    return [same[first : first + most] for same in by_size.values() for first in range(0, len(same), most)]


def _encoder(family: Family, base: str, device: torch.device) -> Encode:
    """A text encoder loaded for this call."""
    tokenizer = family.load_tokenizer(base)
    text_encoder = family.load_text_encoder(base, torch.float32).to(device)
    return lambda captions: family.encode_text(tokenizer, text_encoder, captions)


def _write(target: Path, pairs: Sequence[_Pair], drawn: Sequence[Sequence[np.ndarray]], about: dict[str, Any]) -> None:
    temporary = target.with_name(TEMPORARY + target.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for number, pair in enumerate(pairs):
            pictures = [variant[number] for variant in drawn]
            row = np.concatenate([pair.wanted, *pictures, pair.original], axis=1)
            replace_bytes(temporary / f"{number:02d}.webp", _webp(pictures[0]))
            replace_bytes(temporary / f"{number:02d}-row.webp", _webp(row))
        text = json.dumps(about, indent=2, ensure_ascii=False)
        replace_bytes(temporary / "scores.json", text.encode("utf-8"))
        if target.exists():  # a resumed run comes by the same step again
            old = target.with_name(TEMPORARY + "old-" + target.name)
            shutil.rmtree(old, ignore_errors=True)
            target.replace(old)
            shutil.rmtree(old)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _webp(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()
