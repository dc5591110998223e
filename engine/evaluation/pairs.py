"""Pairs as the net sees them, and images drawn from their maps at fixed seeds, with the nets that are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.conditions import registry
from engine.config import ValidationConfig
from engine.data.cache import cropped_hint, cropped_image
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.families.registry import Family
from engine.inference.sampling import Text, decode, draw_latents
from engine.inference.settings import SamplingOptions
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.memory import free_memory

BATCH = 4
DRAWING = "Drawing control images"
Encode = Callable[[Sequence[str]], list[Text]]
"""Prompts to embeddings, one each, without B; a prompt that was read in pieces has as many times the tokens."""


@dataclass(frozen=True)
class Pair:
    """One pair as the net sees it: its map and its image, uint8 RGB (h, w, 3) of one size."""

    sample: Sample
    wanted: np.ndarray
    original: np.ndarray


@dataclass(frozen=True)
class Wanted:
    """One image to draw: from this map, with this prompt, from the noise of this seed."""

    map: np.ndarray
    prompt: str
    seed: int
    strength: float = 1.0


@dataclass(frozen=True)
class Nets:
    """What draws: the resident nets, or ones that were loaded for it."""

    family: Family
    base: str
    denoiser: Any
    controlnet: Any
    encode: Encode | None = None
    """None: the text encoder is loaded for the call."""


def read_pair(sample: Sample, dataset: Dataset, plan: CropPlan) -> Pair:
    """The pair in its own bucket's size; of random crops the centre, so that every step shows the same.

    Raises:
        UserError: the image or its map is gone.
    """
    nearest = dataset.condition is not None and registry.get(dataset.condition.type).categorical
    crop = plan.crop(sample)
    wanted = cropped_hint(dataset.condition_path(sample), crop, nearest)
    return Pair(sample, wanted, np.asarray(cropped_image(sample, crop)))


@contextmanager
def unnoticed(nets: Nets) -> Iterator[None]:
    """Whatever is drawn inside: no weight learns, and random state and the net's mode are put back afterwards."""
    devices = [nets.denoiser.device] if nets.denoiser.device.type == "cuda" else []
    training = nets.controlnet.training
    nets.controlnet.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        nets.controlnet.train(training)
        free_memory()


def draw(
    nets: Nets,
    wanted: Sequence[Wanted],
    settings: ValidationConfig,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    batch: int = BATCH,
) -> list[torch.Tensor]:
    """Latents (4, h, w) on the CPU, one for each. Those of one size, strength and length of text are drawn together.

    Neither text encoder nor VAE is in memory meanwhile.

    Raises:
        Cancelled: the token says so. UserError: the result is not finite.
    """
    encode = nets.encode or encoder(nets.family, nets.base, nets.denoiser.device)
    *texts, empty = encode([*(one.prompt for one in wanted), ""])
    del encode  # and with it a text encoder that was loaded for this
    resident = {"denoiser": nets.denoiser, "vae": None, "text_encoder": None, "tokenizer": None}
    pipeline = nets.family.pipeline(nets.base, nets.controlnet, nets.denoiser.dtype, **resident)
    total, done = settings.sampling_steps * len(wanted), 0
    if progress:
        progress(done, total, DRAWING)
    drawn: dict[int, torch.Tensor] = {}
    for numbers in _batches(nets.family, wanted, texts, batch):

        def on_step(steps: int, before: int = done, count: int = len(numbers)) -> None:
            if progress:
                progress(before + steps * count, total, DRAWING)

        options = SamplingOptions(
            steps=settings.sampling_steps, guidance=settings.guidance_scale, strength=wanted[numbers[0]].strength
        )
        rows = {name: torch.stack([texts[number][name] for number in numbers]) for name in empty}
        unconditional = {name: row[None] for name, row in empty.items()}
        latents = draw_latents(
            nets.family,
            pipeline,
            text=rows,
            negative=nets.family.repeated_text(unconditional, nets.family.text_length(rows)),
            control=torch.stack([torch.from_numpy(wanted[number].map.copy()) for number in numbers]),
            seeds=[wanted[number].seed for number in numbers],
            options=options,
            token=token,
            on_step=on_step,
        ).cpu()
        drawn.update(zip(numbers, latents, strict=True))
        done += settings.sampling_steps * len(numbers)
    return [drawn[number] for number in range(len(wanted))]


def _batches(family: Family, wanted: Sequence[Wanted], texts: Sequence[Text], most: int) -> list[list[int]]:
    """Numbers of the images, at most ``most`` together and all of one size, strength and length of text."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for number, (one, text) in enumerate(zip(wanted, texts, strict=True)):
        alike.setdefault((one.strength, one.map.shape, family.text_length(text)), []).append(number)
    return [same[first : first + most] for same in alike.values() for first in range(0, len(same), most)]


def encoder(family: Family, base: str, device: torch.device | str, whole: bool = False) -> Encode:
    """A text encoder loaded for this call. Prompts are cut where captions are cut in training; ``whole``: all of each
    is read, in pieces."""
    tokenizer = family.load_tokenizer(base)
    text_encoder = family.load_text_encoder(base, torch.float32).to(device)

    def one(prompt: str) -> Text:
        pieces = family.pieces(tokenizer, [prompt]) if whole else 1
        return {name: rows[0] for name, rows in family.encode_long(tokenizer, text_encoder, [prompt], pieces).items()}

    def encode(prompts: Sequence[str]) -> list[Text]:
        with torch.no_grad():
            known = {prompt: one(prompt) for prompt in dict.fromkeys(prompts)}
        return [known[prompt] for prompt in prompts]

    return encode


def to_images(nets: Nets, vae: Any, latents: Sequence[torch.Tensor], token: CancelToken | None) -> list[np.ndarray]:
    """Latents to uint8 RGB (h, w, 3)."""
    return [np.asarray(image) for image in decode(nets.family, vae, latents, token)]


@torch.no_grad()
def round_trip(nets: Nets, vae: Any, image: np.ndarray) -> np.ndarray:
    """What the VAE makes of an image, uint8 RGB (h, w, 3): the most that any drawing with this base can be like it."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = nets.family.encode_mean(vae, pixels.to(vae.device, vae.dtype))
    return to_images(nets, vae, list(latents), None)[0]
