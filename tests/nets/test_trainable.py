"""Which weights learn, and by which rule."""

from __future__ import annotations

import copy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from safetensors.torch import load_file

from benchmarks.kernels import count
from engine.config import OptimConfig
from engine.distributed.group import ALONE
from engine.distributed.parallel import Parallel
from engine.errors import UserError
from engine.families.registry import detect
from engine.nets import ema
from engine.nets.ema import EMA, build_ema, ema_weights
from engine.nets.gradient_checkpointing import use_gradient_checkpointing
from engine.nets.master_weights import MasterWeightSync
from engine.training.optim import build_optimizer, set_learning_rate
from engine.workspace.paths import Workspace
from tests.short_runs import RunFactory, train


@pytest.mark.answers('What do "only mid control" and "sd_locked" mean?')
def test_only_the_middle_speaks(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**{"objective.only_mid_control": True, "train.steps": 2})
    train(ready_workspace, run)
    weights = load_file(run.checkpoints()[-1].controlnet / "diffusion_pytorch_model.safetensors")
    outlets = [weight for name, weight in weights.items() if name.startswith("controlnet_down_blocks")]
    assert outlets and not any(weight.any() for weight in outlets)
    assert weights["controlnet_mid_block.weight"].any()


def test_a_hint_encoder_computed_twice_keeps_the_map_alone_and_learns_the_same(tiny_base: Path) -> None:
    family = detect(str(tiny_base))
    unet = family.load_denoiser(str(tiny_base), torch.float32)
    usual = family.new_controlnet(unet)
    sparing = copy.deepcopy(usual)
    use_gradient_checkpointing(sparing, unet, "controlnet", family.layers)
    found, hint = [], torch.rand(2, 3, 64, 64)
    for net in (usual, sparing):
        encoder = net.controlnet_cond_embedding
        torch.nn.init.normal_(encoder.conv_out.weight, generator=torch.Generator().manual_seed(1))
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            answer = encoder(hint)
        answer.square().mean().backward()
        found.append((sum(kept), [parameter.grad for parameter in encoder.parameters()]))
        with torch.no_grad():
            assert torch.equal(encoder(hint), answer)
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))
    assert found[0][0] > 10 * hint.nbytes and found[1][0] <= hint.nbytes


def test_offset_noise_shifts_whole_channels() -> None:
    from engine.training.randomness import random_numbers

    draws = random_numbers(1, 0, 500, (4, 8, 8), 1000, 0.1)
    assert draws.offset.shape == (500, 4, 1, 1)
    assert draws.offset.std().item() == pytest.approx(1, abs=0.05)
    shifted = draws.noise + 0.5 * draws.offset
    assert shifted.mean(dim=(2, 3)).std() > 3 * draws.noise.mean(dim=(2, 3)).std()


def test_an_average_in_ram_equals_one_beside_the_net() -> None:
    model = torch.nn.Linear(3, 3)
    averages = [build_ema(model, OptimConfig(ema_decay=0.5, ema_device=place)) for place in ("same", "cpu")]
    for step in range(3):
        with torch.no_grad():
            model.weight.add_(step + 1)
        for average in averages:
            average.step(model.parameters())
    for first, second in zip(averages[0].shadow_params, averages[1].shadow_params, strict=True):
        assert torch.equal(first, second)
    assert build_ema(model, OptimConfig()) is None


def test_the_average_is_diffusers_own_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ema, "AT_ONCE", 20)
    model = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(3)))
    ours, theirs = (
        EMA(model.parameters(), decay=0.9, foreach=True),
        EMAModel(model.parameters(), decay=0.9, foreach=True),
    )
    for _ in range(30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.step(model.parameters())
        theirs.step(model.parameters())
        assert all(torch.equal(one, two) for one, two in zip(ours.shadow_params, theirs.shadow_params, strict=True))
    assert (ours.optimization_step, ours.cur_decay_value) == (theirs.optimization_step, theirs.cur_decay_value)
    own = [parameter.detach().clone() for parameter in model.parameters()]
    with ema_weights(ours, model):
        assert all(torch.equal(one, two) for one, two in zip(ours.shadow_params, model.parameters(), strict=True))
    assert all(torch.equal(one, two) for one, two in zip(own, model.parameters(), strict=True))


def test_an_update_of_the_average_makes_no_difference_of_its_own() -> None:
    """Counted as in docs/performance.md: half of the memory traffic of diffusers' EMAModel."""
    with torch.device("meta"):
        model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(10)))
    ours, theirs = EMA(model.parameters(), decay=0.999), EMAModel(model.parameters(), decay=0.999, foreach=True)
    for average in (ours, theirs):
        average.optimization_step = 10_000
    less, usual = (count(lambda average=average: average.step(model.parameters())) for average in (ours, theirs))
    assert less.bytes < 0.6 * usual.bytes


def test_an_average_that_is_updated_at_each_third_step_has_the_decay_of_three() -> None:
    model = torch.nn.Linear(3, 3, bias=False)
    average = build_ema(model, OptimConfig(ema_decay=0.9, ema_every=3))
    assert average is not None
    wanted, decay = model.weight.detach().clone(), 1.0
    for step in range(1, 100):
        with torch.no_grad():
            model.weight.normal_()
        average.step(model.parameters())
        decay *= average.get_decay(step)
        if step % 3 == 0:
            wanted, decay = decay * wanted + (1 - decay) * model.weight.detach(), 1.0
        assert average.optimization_step == step and torch.allclose(average.shadow_params[0], wanted, atol=1e-6)
    assert average.cur_decay_value == pytest.approx(0.9**3)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_adamw_is_one_kernel(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **given: seen.update(given))
    one = SimpleNamespace(requires_grad=True, ndim=2, device=SimpleNamespace(type=device))
    net: Any = SimpleNamespace(parameters=lambda: iter([one]), named_parameters=lambda: iter([("weight", one)]))
    build_optimizer(net, OptimConfig(learning_rate=3e-5, beta1=0.8, beta2=0.95))
    assert seen == {"lr": 3e-5, "betas": (0.8, 0.95), "fused": True}


def test_adafactor_goes_by_our_learning_rate_alone() -> None:
    net = torch.nn.Linear(3, 3)
    optimizer = build_optimizer(net, OptimConfig(optimizer="adafactor", learning_rate=0.05, weight_decay=0.0))
    moved = []
    for rate in (0.05, 0.025, 0.0):
        before = net.weight.detach().clone()
        set_learning_rate(optimizer, rate)
        net.weight.grad, net.bias.grad = torch.ones(3, 3), torch.ones(3)
        optimizer.step()
        moved.append(float((net.weight.detach() - before).abs().mean()))
    assert moved == pytest.approx([0.05, 0.025, 0.0], rel=1e-3), "of even gradients a step is as long as the rate says"


def run_of(net: torch.nn.Module) -> Any:
    """What clipping needs of a run."""
    weights = MasterWeightSync(net, torch.float32)
    trainable = SimpleNamespace(parameters=lambda: list(net.parameters()), weights=weights)
    return SimpleNamespace(group=ALONE, trainable=trainable, accelerator=None, device=torch.device("cpu"))


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_gradients_are_shortened_to_the_norm_that_was_asked_for(scale: float) -> None:
    net = torch.nn.Linear(3, 1, bias=False)
    run = run_of(net)
    parallel, loss, nan = Parallel(run, str), torch.tensor(0.1), torch.tensor(float("nan"))
    for given, wanted in (([3.0, 0.0, 4.0], [0.3, 0.0, 0.4]), ([0.03, 0.0, 0.04], [0.03, 0.0, 0.04])):
        net.weight.grad = scale * torch.tensor([given])
        assert parallel.unscale_and_clip(loss, 0.5, scale) == (True, True)
        assert net.weight.grad.tolist()[0] == pytest.approx(wanted, rel=1e-4)
    assert parallel.unscale_and_clip(nan, 0.5, scale) == (False, True)
    net.weight.grad = torch.tensor([[1.0, float("inf"), 0.0]])
    assert parallel.unscale_and_clip(loss, 0.5, scale) == (True, False)
    assert net.weight.grad.tolist() == [[1.0, float("inf"), 0.0]]


def test_short_gradients_are_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole pass over them, which takes longest in RAM (offload)."""
    monkeypatch.setattr(torch, "_foreach_mul_", None)
    net = torch.nn.Linear(2, 1, bias=False)
    net.weight.grad = torch.tensor([[0.3, 0.4]])
    assert Parallel(run_of(net), str).unscale_and_clip(torch.tensor(0.1), 1.0, 1.0) == (True, True)


@pytest.mark.parametrize(("name", "version"), [("adamw8bit", "0.49.2"), ("paged_adamw8bit", "0.50.2")])
def test_eight_bits_on_a_processor_are_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda package: version)
    with pytest.raises(UserError, match="only on NVIDIA graphics cards .* and this run uses processors"):
        build_optimizer(torch.nn.Linear(2, 2), OptimConfig(optimizer=name))


def on_a_card() -> torch.nn.Module:
    """Stands in for a net on a graphics card."""
    weight = SimpleNamespace(device=torch.device("cuda"), requires_grad=True, ndim=2)
    named = [("weight", weight)]
    return SimpleNamespace(parameters=lambda: iter([weight]), named_parameters=lambda: iter(named))  # type: ignore[return-value]


@pytest.mark.answers("accelerate, DeepSpeed, xformers, bitsandbytes, triton, chardet: what do I need?")
def test_a_missing_bitsandbytes_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        build_optimizer(on_a_card(), OptimConfig(optimizer="paged_adamw8bit"))


@pytest.mark.parametrize(("name", "kind"), [("adamw8bit", "AdamW8bit"), ("paged_adamw8bit", "PagedAdamW8bit")])
def test_bitsandbytes_gets_our_groups_and_rates(monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    seen = {}

    def make(groups: list, lr: float, betas: tuple) -> None:
        seen.update(decays=[group["weight_decay"] for group in groups], lr=lr, betas=betas)

    package = ModuleType("bitsandbytes")
    package.optim = SimpleNamespace(**{kind: make})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    build_optimizer(on_a_card(), OptimConfig(optimizer=name, learning_rate=3e-5, weight_decay=0.2))
    assert seen == {"decays": [0.2, 0.0], "lr": 3e-5, "betas": (0.9, 0.999)}


@pytest.mark.answers('What do "only mid control" and "sd_locked" mean?')
def test_an_unlocked_base_learns_and_goes_along_into_try_it(
    new_run: RunFactory, ready_workspace: Workspace, tiny_base: Path, edges: Image.Image
) -> None:
    from engine.inference.request import TryRequest
    from engine.inference.session import TrySession

    run = new_run(
        **{"objective.sd_locked": False, "train.steps": 2, "optim.learning_rate": 0.05, "validation.check_every": 50}
    )
    train(ready_workspace, run)
    folder = run.checkpoints()[-1].folder
    learnt = load_file(folder / "base_decoder" / "decoder.safetensors")
    before = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    assert learnt and not torch.equal(learnt["conv_out.weight"], before["conv_out.weight"])

    request = TryRequest(
        base=str(tiny_base), controlnet=folder, prompt="red circle", control=edges, steps=2, width=64, height=64
    )
    session = TrySession(ready_workspace, device="cpu")
    drawn = session.generate([request])[0]
    alone = replace(request, controlnet=folder.parent / "alone")
    shutil.copytree(folder / "controlnet", alone.controlnet / "controlnet")
    plain = TrySession(ready_workspace, device="cpu").generate([alone])[0]
    assert not np.array_equal(drawn, plain)
    again = session.generate([alone])[0]
    assert np.array_equal(again, plain), "the base of the run before is not kept for the next one"

    shutil.move(folder / "base_decoder", folder.parent / "elsewhere")
    with pytest.raises(UserError, match=r"Its file base_decoder/decoder\.safetensors is missing"):
        TrySession(ready_workspace, device="cpu").generate([request])


def test_an_average_needs_a_locked_base() -> None:
    from engine.config.presets import resolve

    with pytest.raises(UserError, match="covers only the ControlNet"):
        resolve(("test", {"objective": {"sd_locked": False}, "optim": {"ema_decay": 0.9}}))
