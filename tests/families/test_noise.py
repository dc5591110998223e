"""Noise schedules: drawn timesteps, Min-SNR weights, targets; and the scale of latents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from engine.errors import UserError
from engine.families.facts import SD1
from engine.families.latents import LatentSpace
from engine.families.noise import DiffusionNoise
from engine.families.registry import detect
from engine.inference.samplers import Sampler, suiting

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PROCESS = DiffusionNoise(DDPMScheduler(**BETAS))
SHAPE = (4, 8, 8)


def test_cubic_sampling_prefers_the_noisy_end_and_stays_in_range() -> None:
    even = torch.arange(1000)
    assert PROCESS.shape_timesteps(even, "uniform", (8, 8)) is even
    bent = PROCESS.shape_timesteps(even, "cubic", (8, 8))
    assert bent.dtype == torch.int64 and bent.max() == 999 and bent.min() == 2
    assert (bent >= 875).float().mean().item() == pytest.approx(0.5, abs=0.002)
    assert bent.tolist() == sorted(bent.tolist(), reverse=True)


def test_min_snr_weights_follow_the_paper() -> None:
    timesteps = torch.tensor([0, 200, 500, 999])
    snr = PROCESS.signal_to_noise(timesteps)
    weights = PROCESS.loss_weights(timesteps, 5.0)
    assert torch.allclose(weights, torch.minimum(snr, torch.tensor(5.0)) / snr)
    assert weights[0] < 0.01 and weights[-1] == 1.0
    assert torch.equal(PROCESS.loss_weights(timesteps, 0.0), torch.ones(4))


def test_min_snr_weights_of_velocity_are_those_of_the_same_image_error() -> None:
    """Weighting velocity by min(SNR, gamma) / (SNR + 1) weights the error of the image by min(SNR, gamma)."""
    velocity = DiffusionNoise(DDPMScheduler(prediction_type="v_prediction", **BETAS))
    timesteps = torch.tensor([10, 200, 500, 999])
    generator = torch.Generator().manual_seed(0)
    latents, noise, error = (torch.randn(4, *SHAPE, generator=generator) for _ in range(3))
    noisy, wanted = velocity.add_noise(latents, noise, timesteps), velocity.target(latents, noise, timesteps)
    alpha = velocity.scheduler.alphas_cumprod[timesteps][:, None, None, None]
    image = alpha.sqrt() * noisy - (1 - alpha).sqrt() * (wanted + error)  # the latents that the answer stands for
    of_velocity = velocity.loss_weights(timesteps, 5.0) * error.square().mean(dim=(1, 2, 3))
    of_image = velocity.signal_to_noise(timesteps).clamp(max=5.0) * (image - latents).square().mean(dim=(1, 2, 3))
    assert torch.allclose(of_velocity, of_image, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sample", "flow_prediction"])
def test_a_base_that_predicts_something_else_is_refused(kind: str) -> None:
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type=kind)
    with pytest.raises(UserError, match=kind):
        DiffusionNoise(scheduler).target(torch.zeros(1), torch.zeros(1), torch.zeros(1))


def test_fixed_levels_are_timesteps_of_the_schedule() -> None:
    assert PROCESS.timesteps_at((0.0, 0.3, 0.95, 1.0)).tolist() == [0, 299, 949, 999]


def test_latents_are_sampled_from_the_posterior() -> None:
    mean, logvar = torch.full((2, 4, 8, 8), 3.0), torch.full((2, 4, 8, 8), -2.0)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = (3.0 + torch.exp(torch.tensor(-1.0)) * noise) * 0.5
    assert torch.allclose(LatentSpace(scale=0.5).sample(mean, logvar, noise), expected)


def test_latents_are_scaled_around_the_shift_and_back() -> None:
    """As diffusers' pipelines of bases with a shift: (latents - shift) * scale before the denoiser."""
    space = LatentSpace.from_config({"scaling_factor": 0.5, "shift_factor": 2.0, "latent_channels": 16})
    latents = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(space.scaled(latents), (latents - 2) * 0.5)
    assert torch.allclose(space.unscaled(space.scaled(latents)), latents, atol=1e-6)
    assert space.shape(96, 64) == (16, 8, 12)


def test_a_vae_config_with_gaps_means_the_usual_latents() -> None:
    assert LatentSpace.from_config({"shift_factor": None}) == LatentSpace(4, 8, 0.18215, 0.0)
    assert LatentSpace.from_config({"block_out_channels": [8, 16]}).factor == 2


def test_timesteps_of_flow_matching_are_refused() -> None:
    with pytest.raises(UserError, match="logit_normal"):
        PROCESS.check_objective("logit_normal", 5.0, 0.1)
    PROCESS.check_objective("cubic", 5.0, 0.1)


@pytest.mark.parametrize("sampler", [one for one in suiting(SD1) if one.name != "lcm"], ids=lambda one: one.name)
def test_with_zero_terminal_snr_every_sampler_starts_at_pure_noise(sampler: Sampler, tiny_sd2: Path) -> None:
    family = detect(str(tiny_sd2))
    config = family.noise_process(str(tiny_sd2)).scheduler.config
    assert config["rescale_betas_zero_snr"]
    scheduler = family.sampling_scheduler(sampler.scheduler, config, sampler.options)
    scheduler.set_timesteps(20)
    assert round(float(scheduler.timesteps[0])) == 999
    process = DiffusionNoise(DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, **BETAS))
    assert process.signal_to_noise(torch.tensor([999])) == 0
