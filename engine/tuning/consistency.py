"""Formulas of latent consistency distillation.

Luo et al. 2023, "Latent Consistency Models", arXiv 2310.04378, and "LCM-LoRA", arXiv 2311.05556; the parametrization is
that of Song et al. 2023, "Consistency Models", arXiv 2303.01469. Numbers as in diffusers' LCM scheduler, which draws
with the result, and in its script train_lcm_distill_lora_sdxl.py. Shapes: latents and predictions (B, C, h, w),
timesteps (B,).
"""

from __future__ import annotations

import torch

from engine.families.noise import DiffusionNoise

SOLVER_STEPS = 50
"""Timesteps that the student knows: the teacher's DDIM goes from one to the next. LCM samplers choose among them."""
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0


def solver_timesteps(drawn: torch.Tensor, num_train_timesteps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbouring timesteps (t_n, t_n-1) of the solver, from timesteps drawn from 0..num_train_timesteps - 1.

    t_n = n T / 50 - 1 for n = 1..50, and t_0 = 0: the skipping step of LCM (section 4.3), 20 of 1,000 timesteps.
    """
    stride = num_train_timesteps // SOLVER_STEPS
    number = (drawn // stride).clamp(max=SOLVER_STEPS - 1) + 1
    return number * stride - 1, ((number - 1) * stride - 1).clamp(min=0)


def boundary_scalings(timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """c_skip and c_out, (B, 1, 1, 1), with which f is the identity at timestep 0.

    c_skip = d^2 / ((10 t)^2 + d^2) and c_out = 10 t / sqrt((10 t)^2 + d^2), d = 0.5 (diffusers' LCM scheduler).
    """
    scaled = (timesteps.float() * TIMESTEP_SCALING).reshape(-1, 1, 1, 1)
    squares = scaled**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / squares, scaled / squares.sqrt()


def consistency(
    process: DiffusionNoise, noisy: torch.Tensor, predicted: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """f(noisy, t) = c_skip(t) noisy + c_out(t) x0, fp32: the clean latents that the student predicts."""
    c_skip, c_out = boundary_scalings(timesteps)
    clean, _ = process.clean_and_noise(noisy, predicted, timesteps)
    return c_skip * noisy.float() + c_out * clean


def ddim_step(
    process: DiffusionNoise,
    noisy: torch.Tensor,
    predicted: torch.Tensor,
    timesteps: torch.Tensor,
    earlier: torch.Tensor,
) -> torch.Tensor:
    """Noisy latents at ``earlier`` timesteps, by one step of DDIM (eta 0), fp32.

    Song et al. 2021, "Denoising Diffusion Implicit Models", arXiv 2010.02502, equation 12.
    """
    clean, noise = process.clean_and_noise(noisy, predicted, timesteps)
    return process.add_noise(clean, noise, earlier)


def guided(with_prompt: torch.Tensor, without: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), fp32.

    Args:
        scale: (B,), at least 1, where 1 is the prediction with the prompt alone. LCM's w is this minus 1.
    """
    scale = scale.float().reshape(-1, 1, 1, 1)
    return without.float() + scale * (with_prompt.float() - without.float())
