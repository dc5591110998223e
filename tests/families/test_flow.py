"""Flow matching: sigmas, their shift, and what its objective allows."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from engine.errors import UserError
from engine.families.flow import STEPS, FlowMatching, dynamic_shift, shift_of
from engine.families.residuals import each, spread, sum_of

EVEN = torch.arange(0, STEPS, STEPS // 4096)
SIZE = (64, 64)


def process(**config: object) -> FlowMatching:
    return FlowMatching(FlowMatchEulerDiscreteScheduler(**config))


@pytest.mark.parametrize("sampling", ["logit_normal", "uniform"])
def test_sigmas_lie_between_the_ends(sampling: str) -> None:
    ends = torch.tensor([0, STEPS - 1])
    drawn = process(shift=3.0).shape_timesteps(ends, sampling, SIZE)
    assert drawn.dtype == torch.float32 and 0 < drawn[0] < drawn[1] < 1


def test_without_a_shift_uniform_draws_are_even_and_logit_normal_ones_have_the_papers_density() -> None:
    plain = process(shift=1.0)
    even = plain.shape_timesteps(EVEN, "uniform", SIZE)
    assert torch.allclose(even, EVEN / STEPS, atol=1e-6)
    # P(s < 0.25) = Phi(logit(0.25)), Esser et al., equation 19 with m = 0 and s = 1
    share = 0.5 * (1 + math.erf(math.log(1 / 3) / math.sqrt(2)))
    middle = plain.shape_timesteps(EVEN, "logit_normal", SIZE)
    assert (middle < 0.25).float().mean().item() == pytest.approx(share, abs=1e-3)
    assert middle.median().item() == pytest.approx(0.5, abs=1e-3)


def test_the_shift_is_the_one_by_which_diffusers_samples() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    even = (torch.arange(STEPS // 1000, STEPS + 1, STEPS // 1000)[:1000] - 0.5).clamp(max=STEPS - 1)
    ours = process(shift=3.0).shape_timesteps(even, "uniform", SIZE)
    assert torch.allclose(ours.flip(0), scheduler.sigmas, atol=1e-3)


def test_a_dynamic_shift_grows_with_the_tokens() -> None:
    config = {"use_dynamic_shifting": True}
    shift = shift_of(FlowMatchEulerDiscreteScheduler(**config).config)
    assert shift(256) == pytest.approx(math.exp(0.5)) and shift(4096) == pytest.approx(math.exp(1.15))
    assert dynamic_shift({})(1024) == pytest.approx(1.88, abs=0.01)  # 512 px, Flux
    small, large = (
        process(**config).shape_timesteps(torch.tensor([STEPS // 2]), "logit_normal", size)
        for size in ((32, 32), (128, 128))
    )
    assert small < large


def test_one_euler_step_along_the_true_velocity_gives_the_image() -> None:
    flow = process(shift=3.0)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 16, 8, 8, generator=generator) for _ in range(2))
    sigmas = flow.timesteps_at((0.1, 0.5, 1.0))
    noisy = flow.add_noise(latents, noise, sigmas)
    target = flow.target(latents, noise, sigmas)
    assert torch.allclose(noisy - sigmas.view(-1, 1, 1, 1) * target, latents, atol=1e-5)
    assert torch.equal(noisy[2], noise[2])
    assert torch.equal(flow.loss_weights(sigmas, 0.0), torch.ones(3))


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        (("uniform", 5.0, 0.0), "Min-SNR gamma"),
        (("uniform", 0.0, 0.05), "Noise offset"),
        (("cubic", 0.0, 0.0), "Timestep"),
    ],
)
def test_what_has_no_meaning_for_it_is_refused(settings: tuple[str, float, float], title: str) -> None:
    with pytest.raises(UserError, match=title):
        process().check_objective(*settings)
    process().check_objective("uniform", 0.0, 0.0)


def test_outputs_are_spread_over_the_blocks_and_those_of_several_nets_added() -> None:
    """diffusers and ComfyUI give the base's block i the output i // ceil(N / n)."""
    one, two, three = (torch.full((2,), float(n)) for n in (1, 2, 4))
    assert spread([one, two], 5) == [one, one, one, two, two]
    assert spread([one, two], 5, repeated=True) == [one, two, one, two, one]
    assert spread(None, 3) == [None] * 3
    few, many = (spread([one], 3), spread(None, 2)), (spread([two, three], 3), [None, one])
    first, second = sum_of([few, many])
    assert [int(entry[0]) for entry in first if entry is not None] == [3, 3, 5] and first[0] is first[1]
    assert second == [None, one]
    doubled = each((first, second), lambda tensor: 2 * tensor)
    assert doubled[0][0] is doubled[0][1] and doubled[1][0] is None and float(doubled[0][2][0]) == 10
