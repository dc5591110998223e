"""Images at fixed noise, whose losses are measured again and again while a run trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from engine.data.crop import size_numbers
from engine.jobs.events import BaseChecked, Checked
from engine.machine.device import is_card, peak_bytes
from engine.training.randomness import random_numbers
from engine.training.state import TrainState

LEVELS = (0.3, 0.6, 0.8, 0.95)
(
    "Noise levels, as shares of the schedule, assigned to the images in turn; mostly noisy ones, where the control "
    "and the caption matter most."
)
NOISE_SEED = 20_231


@dataclass(frozen=True)
class LossCheck:
    """What one loss check has found."""

    event: Checked | BaseChecked
    """Without its seconds."""
    finite: bool
    """All figures are finite: the weights are not broken."""
    left_out: int
    """Images that do not count, because a loss of theirs is NaN or infinite."""


@dataclass(frozen=True)
class FixedImages:
    """B images of one size with their noise, on the CPU: the same at every check."""

    latents: torch.Tensor
    """(B, 4, h, w) fp32, scaled mean of the VAE's posterior."""
    noise: torch.Tensor
    timesteps: torch.Tensor
    """(B,), integers."""
    text: dict[str, torch.Tensor]
    sizes: torch.Tensor

    @property
    def count(self) -> int:
        return len(self.latents)


def chosen_rows(state: TrainState) -> tuple[list[int], list[int]]:
    """Rows of ``state.samples``: the first held-out images, and as many training images, evenly from all of them."""
    count, trained = state.config.validation.check_pairs, state.trained_samples
    held_out = list(range(trained, len(state.samples)))[:count]
    places = min(len(held_out), trained)
    return held_out, [number * trained // places for number in range(places)]


def by_size(state: TrainState, rows: Sequence[int]) -> list[list[tuple[int, int]]]:
    """(place in ``rows``, row of ``state.samples``), grouped by the size of the images."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, row in enumerate(rows):
        found.setdefault(state.cache.size(row), []).append((number, row))
    return list(found.values())


def fix_images(state: TrainState, numbered: Sequence[tuple[int, int]]) -> FixedImages:
    """Centre crops of one size.

    Args:
        numbered: one group from ``by_size``; the number decides the noise and its level.
    """
    rows, cache = [row for _, row in numbered], state.cache
    return FixedImages(
        latents=state.latent_space.scaled(cache.latents(rows)[0]),
        noise=fixed_noise(state, [number for number, _ in numbered], cache.latent_shape(rows[0])),
        timesteps=fixed_timesteps(state, [number for number, _ in numbered]),
        text=cache.text([state.samples[row].caption for row in rows]),
        sizes=torch.tensor([size_numbers(cache.crop(row)) for row in rows], dtype=torch.float32),
    )


def fixed_noise(state: TrainState, numbers: Sequence[int], shape: tuple[int, ...]) -> torch.Tensor:
    """Noise (B, *shape), which depends on the numbers alone."""
    count = state.noise_process.num_train_timesteps
    return torch.cat([random_numbers(NOISE_SEED, number, 1, shape, count, 0.0).noise for number in numbers])


def fixed_timesteps(state: TrainState, numbers: Sequence[int]) -> torch.Tensor:
    """Timesteps (B,) of ``LEVELS`` in turn."""
    return state.noise_process.timesteps_at([LEVELS[number % len(LEVELS)] for number in numbers])


@torch.no_grad()
def predict(
    state: TrainState, images: FixedImages, part: slice, control: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and target of some of the images, fp32 (B, C, h, w) on the device. Changes no weight.

    Args:
        control: as the family's nets take it, in the run's precision; None: the denoiser alone predicts.
    """
    to: Any = state.device
    latents, noise, timesteps = (t[part].to(to) for t in (images.latents, images.noise, images.timesteps))
    family, noise_process = state.family, state.noise_process
    encoded = state.trainable.encode_text({name: rows[part].to(to) for name, rows in images.text.items()})
    text = family.conditioning(encoded, images.sizes[part].to(to), state.dtype)
    noisy = noise_process.add_noise(latents, noise, timesteps).to(state.dtype)
    predicted = family.predict(state.denoiser, state.trainable.control_net, noisy, timesteps, text, control)
    return predicted.float(), noise_process.target(latents, noise, timesteps).float()


def memory_gib(device: torch.device) -> float:
    """Peak memory reserved on the card so far, in GiB; without a card, the memory of the process now."""
    if is_card(device):
        return round(peak_bytes(device) / 2**30, 3)
    return round(psutil.Process().memory_info().rss / 2**30, 3)
