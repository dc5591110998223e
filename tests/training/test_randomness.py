"""Randomness from (seed, position), the loss, the learning rate."""

from __future__ import annotations

import pytest
import torch

from engine.config import OptimConfig
from engine.families.text_encoding import Text
from engine.training.batch_order import order
from engine.training.input_dropout import InputDropout
from engine.training.optim import build_optimizer, learning_rate
from engine.training.randomness import random_numbers
from engine.training.step import denoising_loss

SHAPE = (4, 8, 8)


def test_every_epoch_sees_every_image_once_in_its_own_order() -> None:
    first, second = order(3, 10, 0, 10), order(3, 10, 10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert order(4, 10, 0, 10) != first


def test_the_order_can_be_entered_anywhere() -> None:
    assert order(3, 10, 0, 25)[7:19] == order(3, 10, 7, 12)


def test_draws_do_not_depend_on_the_batch_size() -> None:
    whole, parts = (
        random_numbers(1, 0, 4, SHAPE, 1000, 0.5),
        [random_numbers(1, i, 1, SHAPE, 1000, 0.5) for i in range(4)],
    )
    for name in ("noise", "posterior", "uniform_timesteps", "hide_prompt"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))


def test_input_perturbation_has_noise_of_its_own_and_changes_no_other_draw() -> None:
    plain, perturbed = (random_numbers(1, 3, 2, SHAPE, 1000, 0.5, given) for given in (False, True))
    for name in ("noise", "posterior", "uniform_timesteps", "hide_prompt", "offset"):
        assert torch.equal(getattr(plain, name), getattr(perturbed, name))
    assert not plain.perturbation.any()
    assert perturbed.perturbation.shape == perturbed.noise.shape
    assert perturbed.perturbation.std() == pytest.approx(1, abs=0.1)
    assert abs((perturbed.perturbation * perturbed.noise).mean()) < 0.1


def test_what_is_left_out_depends_on_the_position_alone() -> None:
    def keep(text: Text, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"left out": rows, **text}

    leave_out = InputDropout(3, 0.3, 0.6, keep)
    control, t5, _ = leave_out.drawn(10, 400)
    assert torch.equal(control[7:9], leave_out.drawn(17, 2)[0]) and torch.equal(t5[7:9], leave_out.drawn(17, 2)[1])
    assert float(control.float().mean()) == pytest.approx(0.3, abs=0.07)
    assert float(t5.float().mean()) == pytest.approx(0.6, abs=0.07)
    maps, text = torch.ones(400, 2, 3), {"words": torch.ones(400, 5)}
    read, changed = leave_out(10, text, maps)
    assert changed is not None and torch.equal(changed[:, 0, 0] == 0, control) and torch.equal(read["left out"], t5)
    assert bool(maps.all()), "what the cache gave is not changed in place"
    nothing = InputDropout(3, 0.0, 0.0, keep)(10, text, maps)
    assert nothing == (text, maps)
    assert InputDropout(3, 1.0, 0.0, keep)(10, text, None)[1] is None


def test_huber_is_the_square_of_small_errors_and_in_proportion_to_large_ones() -> None:
    target, ones = torch.zeros(2, 1, 1, 1), torch.ones(2)
    small, large = torch.full_like(target, 1e-3), torch.full_like(target, 100.0)
    assert denoising_loss(small, target, ones, 0.1).item() == pytest.approx(1e-6, rel=1e-3)
    assert denoising_loss(large, target, ones, 0.1).item() == pytest.approx(2 * 0.1 * (100 - 0.1), rel=1e-3)
    assert denoising_loss(large, target, ones).item() == pytest.approx(1e4)


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    random_numbers(1, 0, 4, SHAPE, 1000, 0.5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.answers("Drop captions? Guess mode?")
def test_prompts_are_hidden_as_often_as_asked() -> None:
    hidden = random_numbers(1, 0, 2000, (1, 1, 1), 1000, 0.3).hide_prompt.float().mean().item()
    assert hidden == pytest.approx(0.3, abs=0.04)
    assert not random_numbers(1, 0, 50, (1, 1, 1), 1000, 0.0).hide_prompt.any()


def test_timesteps_cover_the_whole_schedule() -> None:
    timesteps = random_numbers(2, 0, 4000, (1, 1, 1), 1000, 0.0).uniform_timesteps
    assert timesteps.min() < 10 and timesteps.max() > 989 and timesteps.max() <= 999
    assert timesteps.float().mean().item() == pytest.approx(499.5, abs=15)


def test_the_loss_is_the_weighted_mean_in_fp32() -> None:
    predicted, target = torch.ones(2, 4, 8, 8, dtype=torch.float16), torch.zeros(2, 4, 8, 8)
    loss = denoising_loss(predicted, target, torch.tensor([1.0, 3.0]))
    assert loss.dtype == torch.float32
    assert loss.item() == 2.0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 0.5, 0.1]), ("cosine", [0.5, 1, 0.5, 0.0245])],
)
def test_the_learning_rate_warms_up_and_then_follows_its_schedule(schedule: str, expected: list[float]) -> None:
    config = OptimConfig(learning_rate=0.01, schedule=schedule, warmup_steps=1)
    assert [100 * learning_rate(config, step, 11) for step in (0, 1, 6, 10)] == pytest.approx(expected, abs=1e-3)


def test_biases_and_norms_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    decaying, spared = build_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    assert [p.ndim for p in decaying["params"]] == [2] and decaying["weight_decay"] == 0.1
    assert [p.ndim for p in spared["params"]] == [1, 1, 1] and spared["weight_decay"] == 0.0
