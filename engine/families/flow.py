"""Flow matching: the noise process of transformer bases (Stable Diffusion 3, Flux, Z-Image).

Lipman et al. 2023, "Flow Matching for Generative Modeling", arXiv 2210.02747. A timestep is a sigma s, from 0 (clean)
to 1 (pure noise); a family scales it to what its denoiser reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from engine.errors import UserError
from engine.families.noise import NoiseProcess
from engine.families.objective import not_for_flow
from engine.machine.device import in_fp64

Shift = Callable[[int], float]
"""The resolution shift k for a number of image tokens; 1 is no shift."""

STEPS = 1 << 20
"""Even draws are integers below this: fine enough that none of the sigmas in fp32 stands for many others."""


def static_shift(k: float) -> Shift:
    """A shift that does not depend on the image size."""
    return lambda tokens: k


def dynamic_shift(config: Mapping[str, Any]) -> Shift:
    """k = exp(mu), where mu grows linearly with the tokens, from the entries of a scheduler's config.

    0.5 at 256 tokens and 1.15 at 4096 for Flux: black-forest-labs/flux, ``sampling.py``, ``get_lin_function``.
    """
    low, high = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    few, many = int(config.get("base_image_seq_len", 256)), int(config.get("max_image_seq_len", 4096))
    return lambda tokens: math.exp(low + (high - low) * (tokens - few) / (many - few))


def shift_of(config: Mapping[str, Any]) -> Shift:
    """The shift of a FlowMatch scheduler's config: by tokens (``use_dynamic_shifting``), or static."""
    return dynamic_shift(config) if config.get("use_dynamic_shifting") else static_shift(float(config.get("shift", 1)))


class FlowMatching(NoiseProcess):
    """x_s = (1 - s) latents + s noise; the net predicts noise - latents."""

    def __init__(self, scheduler: Any, shift: Shift | None = None, patch: int = 2) -> None:
        """
        Args:
            scheduler: diffusers' FlowMatchEulerDiscreteScheduler, as the base has it.
            shift: in training; None: the scheduler's own, so that training covers the sigmas of sampling.
            patch: side of an image token, in latents.
        """
        self.scheduler, self.patch = scheduler, patch
        self.shift = shift or shift_of(scheduler.config)

    @property
    def num_train_timesteps(self) -> int:
        return STEPS

    @property
    def description(self) -> str:
        return "predicts flow"

    def shape_timesteps(self, uniform: torch.Tensor, sampling: str, size: tuple[int, int]) -> torch.Tensor:
        """Sigmas (B,), between 0 and 1, from evenly drawn integers.

        u is the sigmoid of a standard normal number ("logit_normal"), or even ("uniform"). The resolution
        shift makes of it s = k u / (1 + (k - 1) u): at more pixels the same noise hides less, so the noisy end needs
        more of the draws. Source: Esser et al. 2024, "Scaling Rectified Flow Transformers", arXiv 2403.03206, sections
        3.1 and 5.3.2.
        """
        even = (in_fp64(uniform) + 0.5) / STEPS
        u = even if sampling == "uniform" else torch.sigmoid(torch.special.ndtri(even))
        k = self.shift(size[0] * size[1] // self.patch**2)
        return (k * u / (1 + (k - 1) * u)).float().to(uniform.device)

    def timesteps_at(self, levels: Sequence[float]) -> torch.Tensor:
        return torch.tensor(levels, dtype=torch.float32)

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        sigma = timesteps.view(-1, *[1] * (latents.ndim - 1)).to(latents.dtype)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The velocity dx/ds = noise - latents."""
        return noise - latents

    def loss_weights(self, timesteps: torch.Tensor, min_snr_gamma: float) -> torch.Tensor:
        """Ones: the draws of ``shape_timesteps`` are the weighting."""
        return torch.ones(timesteps.shape, device=timesteps.device)

    def check_objective(self, sampling: str, min_snr_gamma: float, offset_noise: float) -> None:
        for title, why, instead in not_for_flow(sampling, min_snr_gamma, offset_noise):
            raise UserError(
                f"{title} cannot be used with this base.",
                f"The base is trained by flow matching: {why}.",
                f"Set {title} to {instead}.",
            )
