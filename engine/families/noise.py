"""Noise processes: how training adds noise, what the denoiser should predict, and how the loss weighs timesteps.

Shapes: latents, noise and predictions (B, C, h, w); timesteps (B,). Formulas run in fp32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from engine.errors import UserError


class NoiseProcess(ABC):
    """The forward process of a base model: everything in the objective that depends on timesteps."""

    scheduler: Any
    """The base's diffusers scheduler; samplers are built from its config."""

    @property
    @abstractmethod
    def num_train_timesteps(self) -> int:
        """Training draws integers evenly from 0..num_train_timesteps - 1 and hands them to ``shape_timesteps``."""

    @property
    @abstractmethod
    def description(self) -> str:
        """The prediction type for people: "predicts noise"."""

    @abstractmethod
    def shape_timesteps(self, uniform: torch.Tensor, sampling: str) -> torch.Tensor:
        """Timesteps (B,) as ``add_noise`` and the denoiser take them, from evenly drawn integers (B,).

        Args:
            sampling: "uniform", or "cubic" for more of the noisy end.
        """

    @abstractmethod
    def timesteps_at(self, levels: Sequence[float]) -> torch.Tensor:
        """Timesteps (B,) at fixed shares of the schedule, 0 (clean) to 1 (pure noise)."""

    @abstractmethod
    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noisy latents at these timesteps."""

    @abstractmethod
    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The target of the denoiser's prediction.

        Raises:
            UserError: the base predicts something that this app cannot train.
        """

    @abstractmethod
    def loss_weights(self, timesteps: torch.Tensor, min_snr_gamma: float) -> torch.Tensor:
        """Weight of each image's squared error, (B,); ones where ``min_snr_gamma`` is 0."""


class DiffusionNoise(NoiseProcess):
    """DDPM's discrete noise schedule with noise or velocity prediction, as the base's scheduler config says.

    Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    @property
    def num_train_timesteps(self) -> int:
        return int(self.scheduler.config.num_train_timesteps)

    @property
    def description(self) -> str:
        config = self.scheduler.config
        names = {"epsilon": "noise", "v_prediction": "velocity"}
        predicts = names.get(config.prediction_type, config.prediction_type)
        return f"predicts {predicts}" + (", zero terminal SNR" if config.get("rescale_betas_zero_snr") else "")

    def shape_timesteps(self, uniform: torch.Tensor, sampling: str) -> torch.Tensor:
        """Integers in 0..num_train_timesteps - 1: as drawn ("uniform"), or bent to the noisy end ("cubic").

        Cubic: t = (1 - (u / T)^3) T, so half of the draws fall on the noisiest eighth, where an image's layout is
        decided. Source: Mou et al. 2023, "T2I-Adapter", arXiv 2302.08453, section 3.3.
        """
        if sampling == "uniform":
            return uniform
        bent = (1 - (uniform.double() / self.num_train_timesteps) ** 3) * self.num_train_timesteps
        return bent.long().clamp(0, self.num_train_timesteps - 1)

    def timesteps_at(self, levels: Sequence[float]) -> torch.Tensor:
        return torch.tensor([int(level * (self.num_train_timesteps - 1)) for level in levels])

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self.scheduler.add_noise(latents, noise, timesteps)

    def signal_to_noise(self, timesteps: torch.Tensor) -> torch.Tensor:
        """SNR(t) = alpha_bar / (1 - alpha_bar), shape (B,)."""
        alphas = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        return alphas / (1 - alphas).clamp_min(1e-12)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The noise, or the velocity sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) latents.

        Source of the velocity: Salimans and Ho 2022, "Progressive Distillation", arXiv 2202.00512, appendix D.
        """
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "v_prediction":
            return self.scheduler.get_velocity(latents, noise, timesteps)
        raise UserError(
            "This base model cannot be trained for.",
            f"Its scheduler says that it predicts {kind!r}; this app knows 'epsilon' (noise) and 'v_prediction'.",
            "Choose another base model.",
        )

    def loss_weights(self, timesteps: torch.Tensor, min_snr_gamma: float) -> torch.Tensor:
        """Min-SNR weights, (B,): min(SNR, gamma) / SNR for noise prediction, min(SNR, gamma) / (SNR + 1) for velocity.

        Ones where gamma is 0. Source: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy",
        arXiv 2303.09556.
        """
        if min_snr_gamma <= 0:
            return torch.ones(timesteps.shape, device=timesteps.device)
        snr = self.signal_to_noise(timesteps)
        if self.scheduler.config.prediction_type == "v_prediction":
            return snr.clamp(max=min_snr_gamma) / (snr + 1)
        return snr.clamp(max=min_snr_gamma) / snr.clamp_min(1e-12)
