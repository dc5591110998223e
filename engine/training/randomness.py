"""The random numbers of a batch: from (seed, position) alone, whatever the batch size, the process and the device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BatchRandomness:
    """The random numbers of a batch of B images, on the CPU, fp32."""

    noise: torch.Tensor
    """(B, C, h, w), standard normal."""
    posterior: torch.Tensor
    """(B, C, h, w), standard normal: the sample of the VAE's posterior."""
    uniform_timesteps: torch.Tensor
    """(B,), integers drawn evenly from 0..num_train_timesteps - 1; ``NoiseProcess.shape_timesteps`` takes them."""
    hide_prompt: torch.Tensor
    """(B,), bool."""
    offset: torch.Tensor
    """(B, C, 1, 1), standard normal: how far offset noise shifts each channel."""
    perturbation: torch.Tensor
    """(B, C, h, w), standard normal, for input perturbation; (B, 1, 1, 1) zeros in a run without it."""
    even: torch.Tensor
    """(B,), drawn evenly from 0..1: ``Family.drawn_conditions`` takes them."""


def generator_at(seed: int, position: int, purpose: str = "") -> torch.Generator:
    """The generator of an image of the stream: its numbers are the same whenever and wherever they are drawn.

    Args:
        purpose: numbers of another purpose are independent of these.
    """
    text = f"{seed}:{position}:{purpose}" if purpose else f"{seed}:{position}"
    return torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big"))


def random_numbers(
    seed: int,
    first: int,
    batch: int,
    shape: tuple[int, ...],
    num_train_timesteps: int,
    prompt_dropout: float,
    perturbed: bool = False,
) -> BatchRandomness:
    """Random numbers for images ``first`` to ``first + batch`` of the stream.

    Each image has its own generator, so the numbers depend neither on the batch size nor on how images are assigned to
    processes. They are drawn on the CPU, so they are the same on every device.
    """
    noise, posterior, steps, hidden, offset, perturbation, even = [], [], [], [], [], [], []
    for position in range(first, first + batch):
        generator = generator_at(seed, position)
        noise.append(torch.randn(shape, generator=generator))
        posterior.append(torch.randn(shape, generator=generator))
        steps.append(torch.randint(0, num_train_timesteps, (), generator=generator))
        hidden.append(torch.rand((), generator=generator) < prompt_dropout)
        offset.append(torch.randn((shape[0], 1, 1), generator=generator))
        perturbation.append(torch.randn(shape, generator=generator) if perturbed else torch.zeros(1, 1, 1))
        even.append(torch.rand((), generator=generator))  # behind the others, so that those stay as they were
    return BatchRandomness(
        *(torch.stack(drawn) for drawn in (noise, posterior, steps, hidden, offset, perturbation, even))
    )
