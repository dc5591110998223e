"""Half precision: fp32 weights learn, copies compute, and what is not finite moves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine.jobs.control import Control
from engine.jobs.events import StepDone
from engine.nets.lora import lora_layers
from engine.training import setup
from engine.training.checkpoint import optimizer_to_tensors
from engine.training.faults import take_step
from engine.training.job import build_trainer
from engine.training.loss_scale import LossScale
from engine.training.state import TrainState
from engine.training.step import Skipped
from engine.training.trainer import Trainer
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint, flat, step_gradients
from tests.short_runs import RunFactory, train

TRUE_SHARE = {"bf16": 0.995, "fp16": 0.9998}
"""Least cosine between a gradient and the one in fp32: of eight and eleven bits."""


@pytest.fixture
def fp16_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors can compute in fp16, though slowly; users are spared that."""
    monkeypatch.setattr(setup, "usable_precision", lambda wanted, device: (wanted, ""))


@pytest.fixture
def build(new_run: RunFactory, ready_workspace: Workspace) -> Iterator[Any]:
    """The state of a run at step 0 whose outputs are not zero, so that every weight has a gradient."""
    built: list[Trainer] = []

    def make(**settings: Any) -> TrainState:
        made = build_trainer(ready_workspace, new_run(**settings), Control().token, lambda event: None)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in made.state.trainable.parameters():
                if parameter.requires_grad:
                    parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        made.state.trainable.weights.refresh()
        built.append(made)
        return made.state

    yield make
    for made in built:
        made.close()


@pytest.mark.parametrize("base", ["tiny_base", pytest.param("tiny_sdxl", marks=pytest.mark.long)])
def test_gradients_in_half_precision_point_where_those_in_fp32_do(
    build: Any, base: str, request: pytest.FixtureRequest, fp16_everywhere: None
) -> None:
    settings = {"model.base": str(request.getfixturevalue(base)), "train.accumulation": 2, "optim.max_grad_norm": 1e9}
    exact = flat(step_gradients(build(**settings))[1])
    for kind, least in TRUE_SHARE.items():
        rounded = flat(step_gradients(build(**settings, **{"train.precision": kind}))[1])
        assert rounded.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > least
        assert float(rounded.norm()) == pytest.approx(float(exact.norm()), rel=0.05)


@pytest.mark.answers("Which precision, fp16 or bf16? Does bf16 harm the result?")
def test_corrections_far_below_half_precision_add_up(build: Any) -> None:
    made = build(**{"train.precision": "bf16", "optim.learning_rate": 1e-6, "optim.weight_decay": 0.0})
    name, weight = next((n, p) for n, p in made.trainable.master.named_parameters() if n.endswith("conv1.weight"))
    before, computing = weight.detach().clone(), made.trainable.control_net.get_parameter(name)
    for _ in range(3):
        take_step(made)
        made.step_done()
    moved = (weight - before).abs()
    assert moved.max() <= 3.1e-6 and (moved > 0).float().mean() > 0.99, "Adam moves each by the rate"
    assert torch.equal(computing, weight.bfloat16())
    assert (computing == before.bfloat16()).float().mean() > 0.9, "what bf16 alone would have kept of it: nothing"


def test_what_computes_is_in_half_precision_and_what_learns_is_not(build: Any) -> None:
    made = build(**{"train.precision": "bf16", "objective.sd_locked": False, "model.control_lora_rank": 4})
    assert {p.dtype for p in made.trainable.control_net.parameters()} == {p.dtype for p in made.denoiser.parameters()}
    assert {p.dtype for p in made.trainable.parameters() if p.requires_grad} == {torch.float32}
    of_base = dict(made.denoiser.named_parameters())
    layers = lora_layers(made.trainable.control_net)
    assert layers and all(layer.weight is of_base[f"{name}.weight"] for name, layer in layers.items())
    take_step(made)
    moved = dict(made.trainable.decoder.named_parameters())
    assert torch.equal(of_base["conv_out.weight"], moved["conv_out.weight"].bfloat16())
    assert all(p.grad is None for net in (made.trainable.control_net, made.denoiser) for p in net.parameters())


def test_there_is_one_net_in_fp32(build: Any) -> None:
    made = build()
    assert made.trainable.control_net is made.trainable.master and not made.trainable.weights.separate


def test_tries_at_too_large_a_scale_count_for_nothing_and_a_resume_goes_on_the_same(
    new_run: RunFactory, ready_workspace: Workspace, fp16_everywhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LossScale, "START", 2.0**26)  # overflows for real, six times
    settings = {"train.precision": "fp16", "optim.schedule": "linear", "optim.ema_decay": 0.9, "train.steps": 4}
    straight, paused = new_run(**settings), new_run(**settings)
    trained = train(ready_workspace, straight)
    assert trained.outcome == "completed"
    assert [event.step for event in trained.of(StepDone)] == [1, 2, 3, 4]
    rates = [event.learning_rate for event in trained.of(StepDone)]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert train(ready_workspace, paused, at_step={1: "pause"}).outcome == "paused"
    monkeypatch.setattr(LossScale, "START", 2.0**50)  # what it had found is remembered
    assert train(ready_workspace, paused).outcome == "completed"
    assert_same_checkpoint(straight.checkpoints()[-1].folder, paused.checkpoints()[-1].folder)


@pytest.mark.answers("A step was skipped, or the loss became NaN")
def test_gradients_that_always_overflow_change_no_weight_and_no_scale(build: Any, fp16_everywhere: None) -> None:
    made = build(**{"train.precision": "fp16"})
    assert isinstance(take_step(made), torch.Tensor)
    held = made.loss_scale.value
    made.step_done()
    before = [p.detach().clone() for p in made.trainable.parameters()]
    moments = {name: value.clone() for name, value in optimizer_to_tensors(made.optimizer)[0].items()}
    real = made.parallel.backward
    made.parallel.backward = lambda loss: real(loss * float("inf"))
    assert [take_step(made) for _ in range(4)] == [None, None, None, Skipped("gradients")]
    assert made.loss_scale.value == held
    assert all(torch.equal(one, other) for one, other in zip(before, made.trainable.parameters(), strict=True))
    assert all(p.grad is None for p in made.trainable.parameters())
    after = optimizer_to_tensors(made.optimizer)[0]
    assert moments and all(torch.equal(value, after[name]) for name, value in moments.items())
