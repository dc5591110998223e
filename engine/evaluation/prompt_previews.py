"""Preview images of a run without control images: held-out captions and the user's prompts, at fixed seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.cache import cropped_image
from engine.evaluation import colour, nearest
from engine.evaluation.image_files import settings_text, webp, write_folder
from engine.evaluation.pairs import ImageRequest, Models, draw, no_side_effects, to_images
from engine.evaluation.previews import DiskWatch, PreviewCache, PreviewRequest
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.run import PreviewRecord, read_preview


def make_prompt_previews(
    models: Models,
    request: PreviewRequest,
    *,
    cache: PreviewCache,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    watch: DiskWatch | None = None,
) -> PreviewRecord:
    """Draw the images and write a folder as ``previews.make_previews`` does, without scores of adherence.

    A row shows the image and the held-out original; that of a user's prompt the image alone. The figures "near_copies"
    and "near_originals" are the fractions of drawn images, and of the originals, that nearly equal a training image.

    Raises:
        Cancelled: the token was cancelled. Nothing is left behind.
        UserError: an image is gone, the disk is full, or the weights are broken.
    """
    watch, settings = watch or (lambda what: nullcontext()), request.settings
    with no_side_effects(models):
        samples = request.samples[: settings.pictures]
        with watch("Reading the held-out images"):
            originals = [np.asarray(cropped_image(sample, request.plan.crop(sample))) for sample in samples]
        side = request.plan.resolution
        blank = np.zeros((side, side, 3), np.uint8)
        wanted = [
            ImageRequest(np.zeros_like(original), sample.caption, request.seed + number)
            for number, (sample, original) in enumerate(zip(samples, originals, strict=True))
        ]
        own = [ImageRequest(blank, prompt, request.seed + n) for n, prompt in enumerate(settings.own_prompts)]
        latents = draw(models, [*wanted, *own], settings, token, progress, request.batch)
        if cache.vae is None:
            with watch("Loading the base's VAE"):
                cache.vae = models.family.load_vae(models.base)
        try:
            images = to_images(models, cache.vae.to(models.denoiser.device), latents, token)
        finally:
            cache.vae.to("cpu").disable_tiling()  # on if memory was short
        drawn = images[: len(wanted)]
        figures = (colour.drift(drawn, originals) | _near(request, cache, drawn, originals, token)) if drawn else {}
    target = request.out_folder / f"step-{request.step:06d}"
    with watch(f"Writing the images of step {request.step:,}"):
        write_folder(target, lambda folder: _write(folder, request, wanted, own, images, originals, figures))
    record = read_preview(target)
    assert record is not None, "images that were just written can be read"
    return record


def _near(
    request: PreviewRequest,
    cache: PreviewCache,
    drawn: Sequence[np.ndarray],
    originals: Sequence[np.ndarray],
    token: CancelToken | None,
) -> dict[str, float]:
    if not request.trained:
        return {}
    found = nearest.search(request.dataset, request.trained, drawn, originals, token, known=cache.hashes)
    return {"near_copies": len(found.drawn) / len(drawn), "near_originals": found.originals / len(drawn)}


def _write(
    folder: Path,
    request: PreviewRequest,
    wanted: Sequence[ImageRequest],
    own: Sequence[ImageRequest],
    images: Sequence[np.ndarray],
    originals: Sequence[np.ndarray],
    figures: Mapping[str, float],
) -> None:
    """Write all images and scores.json."""
    settings = request.settings
    for number, (one, image) in enumerate(zip([*wanted, *own], images, strict=True)):
        held_out = number < len(wanted)
        name = f"{number:02d}" if held_out else f"p{number - len(wanted):02d}"
        text = settings_text(
            one.prompt,
            (image.shape[1], image.shape[0]),
            steps=settings.sampling_steps,
            cfg_scale=settings.guidance_scale,
            seed=one.seed,
            checkpoint_step=request.step,
        )
        row = np.concatenate([image, originals[number]], axis=1) if held_out else image
        (folder / f"{name}.webp").write_bytes(webp(image, text))
        (folder / f"{name}-row.webp").write_bytes(webp(row, text))
    about: dict[str, Any] = {
        "step": request.step,
        "pictures": [f"{number:02d}-row.webp" for number in range(len(wanted))],
        "captions": [one.prompt for one in wanted],
        "mean": {},
        "figures": dict(figures),
        "samples": [
            {"key": sample.key, "picture": f"{number:02d}.webp", "seed": one.seed, "scores": {}}
            for number, (sample, one) in enumerate(zip(request.samples, wanted, strict=False))
        ],
        "probes": [
            {"picture": f"p{number:02d}-row.webp", "title": one.prompt, "kind": "own", "prompt": one.prompt}
            | {"key": "", "seed": one.seed, "scores": {}}
            for number, one in enumerate(own)
        ],
        "apart": {},
        "settings": settings.model_dump() | {"resolution": request.plan.resolution, "without_control": False},
    }
    (folder / "scores.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
