"""The class images of a run: drawn once by the untrained base before training, and kept in the run's folder.

class_images/00000.safetensors   latents (C, h, w) of one image; written as soon as it is drawn
class_images/00000.webp          the image, to be looked at
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from engine.disk.durable import atomic_write
from engine.evaluation.image_files import settings_text, webp
from engine.evaluation.pairs import ImageRequest, draw, no_side_effects, to_images
from engine.jobs.events import PhaseChanged, Progress
from engine.training.batches import Preservation
from engine.training.preservation import STREAM, BasePredictions, ClassImages
from engine.training.previews import DrawPreviews, models_without_control
from engine.training.state import TrainState

FOLDER = "class_images"


def class_images(state: TrainState, captions: Sequence[str]) -> torch.Tensor:
    """Latents of one image for each caption, fp32 (n, C, h, w). Those that are not there yet are drawn.

    Raises:
        Cancelled: the token is cancelled; what was drawn stays. UserError: the disk is full, or the base is trained
            already and cannot draw as before.
    """
    folder = state.run_folder / FOLDER
    lacking = [number for number in range(len(captions)) if not _file(folder, number).is_file()]
    if lacking and state.is_main:
        folder.mkdir(exist_ok=True)
        state.emit(PhaseChanged("preparing"))
        with state.trainable.untrained() if state.step else nullcontext():
            _draw(state, folder, captions, lacking)
    state.group.barrier()
    return torch.stack([load_file(_file(folder, number))["latents"] for number in range(len(captions))])


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


def _draw(state: TrainState, folder: Path, captions: Sequence[str], lacking: Sequence[int]) -> None:
    side, settings, seed = state.config.data.resolution, state.config.validation, state.config.train.seed + STREAM
    blank, together = np.zeros((side, side, 3), np.uint8), state.images_at_once
    models = models_without_control(state, lambda prompts: DrawPreviews().encode(state, prompts))
    vae = state.family.load_vae(state.base).to(state.device)
    done = len(captions) - len(lacking)
    for first in range(0, len(lacking), together):
        state.token.raise_if_cancelled()
        state.emit(Progress(done + first, len(captions), "Class images of the untrained base"))
        numbers = lacking[first : first + together]
        requests = [ImageRequest(blank, captions[number], seed + number) for number in numbers]
        with no_side_effects(models):
            latents = draw(models, requests, settings, state.token, None, batch=together)
            images = to_images(models, vae, latents, state.token)
        for number, request, one, image in zip(numbers, requests, latents, images, strict=True):
            about = settings_text(
                request.prompt,
                (side, side),
                steps=settings.sampling_steps,
                cfg_scale=settings.guidance_scale,
                seed=request.seed,
                checkpoint_step=0,
            )
            _file(folder, number).with_suffix(".webp").write_bytes(webp(image, about))
            with atomic_write(_file(folder, number)) as temporary:
                save_file({"latents": one.detach().float().cpu().contiguous()}, temporary)
    state.emit(Progress(len(captions), len(captions), "Class images of the untrained base"))


def preservation_of(state: TrainState, captions: Sequence[str]) -> Preservation | None:
    """What a run adds to each batch; None: nothing. Class images are drawn here where they are not there yet.

    Args:
        captions: of what the base should not forget; see ``preserved_captions``.

    Raises:
        as ``class_images``.
    """
    tuning = state.config.tuning
    if not captions or tuning.preserved_by == "none":
        return None
    if tuning.preserved_by == "answers":
        return BasePredictions(state, captions)
    of_images = [captions[number % len(captions)] for number in range(tuning.class_images)]
    return ClassImages(state, class_images(state, of_images), of_images)
