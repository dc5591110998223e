"""What is random in a step, and the loss. All of it comes from (seed, step), so a resumed run repeats it exactly."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.errors import UserError


def order(seed: int, count: int, first: int, how_many: int) -> list[int]:
    """Rows of images number ``first`` to ``first + how_many`` of an endless stream of shuffled epochs.

    Each epoch of ``count`` rows is its own permutation, drawn from (seed, epoch): a resumed run goes on in mid-epoch.
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
    """(B, 4, h, w), standard normal: which sample of the VAE's posterior is seen this time."""
    timesteps: torch.Tensor
    """(B,), integers in 0..num_train_timesteps - 1."""
    hide_prompt: torch.Tensor
    """(B,), bool."""
    offset: torch.Tensor
    """(B, C, 1, 1), standard normal: how far offset noise shifts each channel."""


def draw(seed: int, first: int, batch: int, shape: tuple[int, ...], timesteps: int, prompt_dropout: float) -> Draws:
    """Random numbers for images ``first`` to ``first + batch`` of the stream.

    Each image has a generator of its own, so the numbers depend neither on the batch size nor on how images are
    dealt to processes, and they are drawn on the CPU, so they are the same on every device.
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


def sample_latents(
    mean: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor, scaling_factor: float
) -> torch.Tensor:
    """A fresh sample of the VAE's posterior, scaled for the UNet. Shapes (B, 4, h, w)."""
    std = torch.exp(0.5 * logvar.clamp(-30.0, 20.0))
    return (mean + std * noise) * scaling_factor


def shape_timesteps(uniform: torch.Tensor, timesteps: int, sampling: str) -> torch.Tensor:
    """Evenly drawn timesteps (B,) in 0..timesteps - 1, as they are ("uniform") or bent to the noisy end ("cubic").

    Cubic: t = (1 - (u / T)^3) T, so that half of the draws fall on the noisiest eighth, where an image's layout is
    decided. Source: Mou et al. 2023, "T2I-Adapter", arXiv 2302.08453, section 3.3.
    """
    if sampling == "uniform":
        return uniform
    bent = (1 - (uniform.double() / timesteps) ** 3) * timesteps
    return bent.long().clamp(0, timesteps - 1)


def signal_to_noise(scheduler: Any, timesteps: torch.Tensor) -> torch.Tensor:
    """SNR(t) = alpha_bar / (1 - alpha_bar), shape (B,)."""
    alphas = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return alphas / (1 - alphas).clamp_min(1e-12)


def target(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """What the UNet should answer, (B, 4, h, w): the noise, or the velocity sqrt(a) noise - sqrt(1 - a) latents.

    Source of the velocity: Salimans and Ho 2022, "Progressive Distillation", arXiv 2202.00512, appendix D.

    Raises:
        UserError: the base was made to answer something else.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    raise UserError(
        "This base model cannot be trained for.",
        f"Its scheduler says that it predicts {kind!r}; this app knows 'epsilon' (noise) and 'v_prediction'.",
        "Choose another base model.",
    )


def loss_weights(scheduler: Any, timesteps: torch.Tensor, min_snr_gamma: float) -> torch.Tensor:
    """Min-SNR weights, (B,): min(SNR, gamma) / SNR for noise prediction, min(SNR, gamma) / (SNR + 1) for velocity.

    Ones where gamma is 0. Source: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy",
    arXiv 2303.09556.
    """
    if min_snr_gamma <= 0:
        return torch.ones(timesteps.shape, device=timesteps.device)
    snr = signal_to_noise(scheduler, timesteps)
    if scheduler.config.prediction_type == "v_prediction":
        return snr.clamp(max=min_snr_gamma) / (snr + 1)
    return snr.clamp(max=min_snr_gamma) / snr.clamp_min(1e-12)


def denoising_loss(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean squared error in fp32: (B, 4, h, w), (B, 4, h, w), (B,) -> scalar."""
    per_image = (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))
    return (per_image * weights.float()).mean()
