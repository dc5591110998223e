"""The random numbers of a step, and the loss. They come from (seed, position), so a resumed run repeats them exactly.

What depends on timesteps is the base's own: engine/families/noise.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch


def order(seed: int, count: int, first: int, how_many: int) -> list[int]:
    """Rows of images number ``first`` to ``first + how_many`` of an endless stream of shuffled epochs.

    Each epoch of ``count`` rows is a permutation drawn from (seed, epoch), so a resumed run continues in mid-epoch.
    """
    rows = []
    permutations: dict[int, np.ndarray] = {}
    for position in range(first, first + how_many):
        epoch, place = divmod(position, count)
        if epoch not in permutations:
            permutations[epoch] = np.random.default_rng([seed, 1, epoch]).permutation(count)
        rows.append(int(permutations[epoch][place]))
    return rows


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch of B images, on the CPU, fp32."""

    noise: torch.Tensor
    """(B, 4, h, w), standard normal."""
    posterior: torch.Tensor
    """(B, 4, h, w), standard normal: the sample of the VAE's posterior."""
    timesteps: torch.Tensor
    """(B,), integers in 0..num_train_timesteps - 1."""
    hide_prompt: torch.Tensor
    """(B,), bool."""
    offset: torch.Tensor
    """(B, C, 1, 1), standard normal: how far offset noise shifts each channel."""


def draw(seed: int, first: int, batch: int, shape: tuple[int, ...], timesteps: int, prompt_dropout: float) -> Draws:
    """Random numbers for images ``first`` to ``first + batch`` of the stream.

    Each image has its own generator, so the numbers depend neither on the batch size nor on how images are assigned to
    processes. They are drawn on the CPU, so they are the same on every device.
    """
    noise, posterior, steps, hidden, offset = [], [], [], [], []
    for position in range(first, first + batch):
        digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        noise.append(torch.randn(shape, generator=generator))
        posterior.append(torch.randn(shape, generator=generator))
        steps.append(torch.randint(0, timesteps, (), generator=generator))
        hidden.append(torch.rand((), generator=generator) < prompt_dropout)
        offset.append(torch.randn((shape[0], 1, 1), generator=generator))
    return Draws(*(torch.stack(drawn) for drawn in (noise, posterior, steps, hidden, offset)))


def denoising_loss(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean squared error in fp32: (B, 4, h, w), (B, 4, h, w), (B,) -> scalar."""
    per_image = (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))
    return (per_image * weights.float()).mean()
