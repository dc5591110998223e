"""Pairs of a dataset as the net sees them, and sampling from their control images with models that are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from engine.conditions import registry
from engine.config import ValidationConfig
from engine.data.cache import cropped_image, cropped_map
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.families.registry import Family
from engine.families.text import USUAL_TEXT, TextOptions
from engine.families.text_encoding import together
from engine.inference import samplers
from engine.inference.sampling import Text, decode, draw_latents
from engine.inference.settings import SamplingOptions
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.device import random_state_kept
from engine.machine.memory import free_memory

BATCH = 4
DRAWING = "Generating images"
Encode = Callable[[Sequence[str]], list[Text]]
"""Prompts to text embeddings, one for each, without the batch dimension. A long prompt, encoded in several pieces, has
that many times as many tokens."""


@dataclass(frozen=True)
class Pair:
    """A sample's condition map and image after cropping, both uint8 RGB (h, w, 3) of one size."""

    sample: Sample
    wanted: np.ndarray
    """The map."""
    original: np.ndarray
    """The image."""


@dataclass(frozen=True)
class ImageRequest:
    """One image to draw."""

    map: np.ndarray
    """The control image, uint8 RGB (h, w, 3)."""
    prompt: str
    seed: int
    strength: float = 1.0
    """Scale of the ControlNet's outputs. 0 switches it off."""
    steps: int = 0
    """Denoising steps. 0: as many as the settings say."""

    def without_control(self) -> ImageRequest:
        """Copy a request with the ControlNet switched off."""
        return replace(self, strength=0.0)


@dataclass(frozen=True)
class Models:
    """The models to draw with. They may be those of the training in progress."""

    family: Family
    base: str
    denoiser: Any
    controlnet: Any
    encode: Encode | None = None
    """None: ``draw`` loads the text encoder and drops it again."""
    text: TextOptions = USUAL_TEXT
    """How prompts are read then."""
    schedule: Mapping[str, Any] = field(default_factory=dict)
    """What the run took the base for, see ``Checkpoint.noise_schedule``. Empty: what its config says."""
    sampler: str = samplers.DEFAULT
    """Name of the sampler."""


def read_pair(sample: Sample, dataset: Dataset, plan: CropPlan) -> Pair:
    """Reads a pair and crops it to its bucket. Random crops become the centre crop, the same at every step.

    Raises:
        UserError: the image or its map is gone.
    """
    nearest = dataset.condition is not None and registry.get(dataset.condition.type).categorical
    crop = plan.crop(sample)
    wanted = cropped_map(dataset.condition_path(sample), crop, nearest, sample.old_ground)
    return Pair(sample, wanted, np.asarray(cropped_image(sample, crop)))


@contextmanager
def no_side_effects(models: Models) -> Iterator[None]:
    """Computes no gradients inside, and restores the random state and the ControlNet's mode afterwards."""
    training = models.controlnet.training
    models.controlnet.eval()
    try:
        with random_state_kept(models.denoiser.device), torch.no_grad():
            yield
    finally:
        models.controlnet.train(training)
        free_memory()


def draw(
    models: Models,
    requests: Sequence[ImageRequest],
    settings: ValidationConfig,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    batch: int = BATCH,
) -> list[torch.Tensor]:
    """Latents (4, h, w) on the CPU, one for each request. Keeps neither text encoder nor VAE in memory.

    Images of the same size, strength, steps and text length are drawn together.

    Raises:
        Cancelled: the token was cancelled. UserError: the result is not finite.
    """
    encode = models.encode or encoder(models.family, models.base, models.denoiser.device, models.text)
    *texts, empty = encode([*(request.prompt for request in requests), ""])
    del encode  # frees a text encoder that was loaded for this call
    resident = {"denoiser": models.denoiser, "vae": None, "text_encoder": None, "tokenizer": None}
    pipeline = models.family.pipeline(
        models.base, models.controlnet, models.denoiser.dtype, models.schedule, **resident
    )
    total, done = sum(request.steps or settings.sampling_steps for request in requests), 0
    if progress:
        progress(done, total, DRAWING)
    drawn: dict[int, torch.Tensor] = {}
    control_vae = models.family.control_vae(models.base, models.denoiser.device)
    for numbers in _batches(models.family, requests, texts, batch):
        first = requests[numbers[0]]

        def on_step(steps: int, before: int = done, count: int = len(numbers)) -> None:
            if progress:
                progress(before + steps * count, total, DRAWING)

        steps = first.steps or settings.sampling_steps
        options = SamplingOptions(
            steps=steps, guidance=settings.guidance_scale, strength=first.strength, sampler=models.sampler
        )
        rows = together([{name: row[None] for name, row in texts[number].items()} for number in numbers])
        unconditional = {name: row[None] for name, row in empty.items()}
        latents = draw_latents(
            models.family,
            pipeline,
            text=rows,
            negative=models.family.repeated_text(unconditional, models.family.text_length(rows)),
            control=torch.stack([torch.from_numpy(requests[number].map.copy()) for number in numbers]),
            seeds=[requests[number].seed for number in numbers],
            options=options,
            control_vae=control_vae,
            token=token,
            on_step=on_step,
        ).cpu()
        drawn.update(zip(numbers, latents, strict=True))
        done += steps * len(numbers)
    return [drawn[number] for number in range(len(requests))]


def _batches(family: Family, requests: Sequence[ImageRequest], texts: Sequence[Text], most: int) -> list[list[int]]:
    """Groups of at most ``most`` indices of requests with the same size, strength, steps and text length."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for number, (request, text) in enumerate(zip(requests, texts, strict=True)):
        kind = (request.strength, request.steps, request.map.shape, family.text_length(text))
        alike.setdefault(kind, []).append(number)
    return [same[first : first + most] for same in alike.values() for first in range(0, len(same), most)]


def encoder(family: Family, base: str, device: torch.device | str, text: TextOptions = USUAL_TEXT) -> Encode:
    """Loads the text encoder. ``text``: how prompts are read; a whole one in as many pieces as it fills."""
    tokenizer = family.load_tokenizer(base)
    text_encoder = family.load_text_encoder(base, torch.float32).to(device)

    def one(prompt: str) -> Text:
        pieces = family.count_chunks(tokenizer, [prompt]) if text.whole else 1
        encoded = family.encode_long(tokenizer, text_encoder, [prompt], pieces, text.clip_skip)
        return {name: rows[0] for name, rows in encoded.items()}

    def encode(prompts: Sequence[str]) -> list[Text]:
        with torch.no_grad():
            known = {prompt: one(prompt) for prompt in dict.fromkeys(prompts)}
        return [known[prompt] for prompt in prompts]

    return encode


def to_images(models: Models, vae: Any, latents: Sequence[torch.Tensor], token: CancelToken | None) -> list[np.ndarray]:
    """Decodes latents to uint8 RGB (h, w, 3)."""
    return [np.asarray(image) for image in decode(models.family, vae, latents, token)]


@torch.no_grad()
def round_trip(models: Models, vae: Any, image: np.ndarray) -> np.ndarray:
    """Encodes and decodes an image, uint8 RGB. No drawing with this base can be closer to the image than this."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = models.family.encode_mean(vae, pixels.to(vae.device, vae.dtype))
    return to_images(models, vae, list(latents), None)[0]
