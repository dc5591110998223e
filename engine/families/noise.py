"""Noise processes: how training adds noise, what the denoiser should predict, and how the loss weighs timesteps.

Shapes: latents, noise and predictions (B, C, h, w); timesteps (B,). Formulas run in fp32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.errors import UserError
from engine.machine.device import in_fp64


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
    def shape_timesteps(self, uniform: torch.Tensor, sampling: str, size: tuple[int, int]) -> torch.Tensor:
        """Timesteps (B,) as ``add_noise`` and the denoiser take them, from evenly drawn integers (B,).

        Args:
            sampling: the setting ``objective.timestep_sampling``.
            size: (h, w) of the latents.
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

    @abstractmethod
    def check_objective(self, sampling: str, min_snr_gamma: float, offset_noise: float) -> None:
        """Whether the objective's settings suit the process.

        Raises:
            UserError: one has no meaning for it.
        """

    # A base's config may be wrong about it. The defaults are for bases that can be read in one way only.

    @property
    def prediction(self) -> str:
        """Name of this one among the ``readings``."""
        return "only"

    def readings(self) -> dict[str, NoiseProcess]:
        """The ways in which a base of this kind may have been trained, this one among them, by ``model.prediction``.

        The base's own errors tell which is right (engine/training/base_check.py). Empty: there is only one.
        """
        return {}

    @property
    def not_measured(self) -> str:
        """A sentence about settings that errors cannot reveal, which people have to set; "" if there are none."""
        return ""

    def with_settings(self, prediction: str, zero_terminal_snr: str) -> NoiseProcess:
        """The process that the settings ``model.prediction`` and ``model.zero_terminal_snr`` ask for.

        Raises:
            UserError: a base of this kind leaves no choice.
        """
        if (prediction, zero_terminal_snr) != ("auto", "auto"):
            raise UserError(
                "Prediction type and zero terminal SNR cannot be set for this base.",
                f"A base that {self.description} can be trained in only one way.",
                "Set both to auto.",
            )
        return self

    @property
    def schedule(self) -> dict[str, Any]:
        """The schedule as plain values, which runs and checkpoints record. See ``with_schedule``."""
        return {}

    def with_schedule(self, schedule: Mapping[str, Any]) -> NoiseProcess:
        """The process that has recorded this ``schedule``; an empty one changes nothing."""
        return self


PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}
"""Prediction types of diffusers' schedulers, by value of ``model.prediction``."""
RECORDED: Mapping[str, tuple[Any, ...]] = {
    "prediction_type": tuple(PREDICTIONS.values()),
    "rescale_betas_zero_snr": (False, True),
}
"""Entries of a scheduler's config that are recorded, and their values."""


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

    @property
    def prediction(self) -> str:
        kind = self.scheduler.config.prediction_type
        return next((name for name, theirs in PREDICTIONS.items() if theirs == kind), kind)

    def readings(self) -> dict[str, NoiseProcess]:
        """Noise or velocity, with the same betas; noise without zero terminal SNR, where it says nothing of an image.

        Source: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps Are Flawed", arXiv 2305.08891,
        section 3.2.
        """
        of_noise = {"rescale_betas_zero_snr": False}
        return {
            name: self.with_schedule({"prediction_type": kind, **(of_noise if kind == "epsilon" else {})})
            for name, kind in PREDICTIONS.items()
        }

    @property
    def not_measured(self) -> str:
        if self.prediction != "v" or self.scheduler.config.get("rescale_betas_zero_snr"):
            return ""
        return (
            "If it was trained with zero terminal SNR, as many such bases are, turn that setting on: the check "
            "does not measure it."
        )

    def with_settings(self, prediction: str, zero_terminal_snr: str) -> NoiseProcess:
        chosen: dict[str, Any] = {}
        if prediction != "auto":
            chosen["prediction_type"] = PREDICTIONS[prediction]
        if zero_terminal_snr != "auto":
            chosen["rescale_betas_zero_snr"] = zero_terminal_snr == "on"
        return self.with_schedule(chosen)

    @property
    def schedule(self) -> dict[str, Any]:
        return {name: self.scheduler.config.get(name) for name in RECORDED}

    def with_schedule(self, schedule: Mapping[str, Any]) -> NoiseProcess:
        changes = {
            name: value
            for name, value in schedule.items()
            if value in RECORDED.get(name, ()) and value != self.schedule[name]
        }
        if not changes:
            return self
        return DiffusionNoise(type(self.scheduler).from_config(self.scheduler.config, **changes))

    def shape_timesteps(self, uniform: torch.Tensor, sampling: str, size: tuple[int, int]) -> torch.Tensor:
        """Integers in 0..num_train_timesteps - 1: as drawn ("uniform"), or bent to the noisy end ("cubic").

        Cubic: t = (1 - (u / T)^3) T, so half of the draws fall on the noisiest eighth, where an image's layout is
        decided. Source: Mou et al. 2023, "T2I-Adapter", arXiv 2302.08453, section 3.3.
        """
        if sampling == "uniform":
            return uniform
        bent = (1 - (in_fp64(uniform) / self.num_train_timesteps) ** 3) * self.num_train_timesteps
        return bent.long().clamp(0, self.num_train_timesteps - 1).to(uniform.device)

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
            f"Its scheduler says that it predicts {kind!r}; this app supports 'epsilon' (noise) and 'v_prediction'.",
            "Choose another base model.",
        )

    def clean_and_noise(
        self, noisy: torch.Tensor, predicted: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The latents x0 and the noise e that a prediction stands for, fp32: noisy = alpha x0 + sigma e.

        With alpha^2 = alpha_bar and sigma^2 = 1 - alpha_bar: of a predicted velocity v, x0 = alpha noisy - sigma v and
        e = alpha v + sigma noisy. Source: Salimans and Ho 2022, arXiv 2202.00512, appendix D.

        Args:
            timesteps: (B,). With zero terminal SNR a noise prediction says nothing of x0 at the last one.
        """
        alphas = self.scheduler.alphas_cumprod.to(noisy.device)[timesteps].reshape(-1, 1, 1, 1)
        alpha, sigma = alphas.sqrt(), (1 - alphas).sqrt()
        noisy, predicted = noisy.float(), predicted.float()
        if self.scheduler.config.prediction_type == "v_prediction":
            return alpha * noisy - sigma * predicted, alpha * predicted + sigma * noisy
        return (noisy - sigma * predicted) / alpha, predicted

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

    def check_objective(self, sampling: str, min_snr_gamma: float, offset_noise: float) -> None:
        if sampling == "logit_normal":
            raise UserError(
                "Timestep sampling cannot be logit_normal with this base.",
                "That is made for bases trained by flow matching; this one has a noise schedule.",
                "Set Timestep sampling to uniform.",
            )
