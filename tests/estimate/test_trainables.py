"""The estimate of a run that trains no ControlNet: it counts what the trainable says, to the byte where it can."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.shapes import count
from engine.config import RunConfig
from engine.config.presets import resolve
from engine.estimate.fallbacks import Machine, options, step_time
from engine.estimate.memory import PROCESS_RAM, Prediction, predict_from
from engine.families.files import LAYOUTS, BaseConfigs, read_configs
from engine.families.registry import detect
from engine.families.sizes import Learned
from engine.families.unet_sizes import count as count_unet
from engine.nets.ema import build_ema
from engine.training.optim import build_optimizer
from engine.tuning.facts import facts_of
from engine.tuning.trainable import Placement
from engine.tuning.whole_base import WholeBase
from tests import whole_denoiser


@pytest.fixture(autouse=True)
def trained() -> Iterator[None]:
    with whole_denoiser.chosen():
        yield


def settings(**sections: dict) -> RunConfig:
    return resolve(("test", {"model": {"base": "owner/model"}, **sections}))[0]


def of_base(base: Path) -> tuple[BaseConfigs, torch.nn.Module]:
    """The configs of a tiny base, and its denoiser in fp32."""
    denoiser = detect(str(base)).load_denoiser(str(base), torch.float32)
    return replace(read_configs(LAYOUTS / "sd1"), denoiser=dict(denoiser.config)), denoiser


def nbytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_weights_gradients_moments_and_files_to_the_byte(any_base: Path, tmp_path: Path, optimizer: str) -> None:
    """A run in bf16 holds the denoiser twice: fp32 master weights, and the copy that computes."""
    base, denoiser = of_base(any_base)
    run = settings(train={"precision": "bf16", "accumulation": 4}, optim={"optimizer": optimizer, "ema_decay": 0.9})
    trainable = WholeBase(denoiser, Placement(torch.device("cpu"), torch.bfloat16))
    master = trainable.parameters()
    rule = build_optimizer(trainable.master, run.optim)
    for parameter in master:
        parameter.grad = torch.ones_like(parameter)
    rule.step()
    moments = [v for state in rule.state.values() for v in state.values() if isinstance(v, torch.Tensor) and v.ndim]
    average = build_ema(trainable.averaged, run.optim)
    assert average is not None
    parts = predict_from(run, base).training
    assert parts["base model"] == nbytes(list(denoiser.parameters()))
    assert parts["trained weights"] == nbytes(list(master)) == 2 * parts["base model"]
    assert parts["their compute copy"] == 0, "the base's denoiser is the copy"
    assert parts["gradients"] == nbytes([parameter.grad for parameter in master if parameter.grad is not None])
    assert parts["optimizer"] == nbytes(moments)
    assert parts["EMA"] == nbytes(average.shadow_params)

    written = [path.stat().st_size for both in (False, True) for path in trainable.save(tmp_path, average=both)]
    headers = 64 * 1024 * len(written)
    predicted = predict_from(run, base)
    assert predicted.weights_of_checkpoint <= sum(written) < predicted.weights_of_checkpoint + headers
    assert predicted.checkpoint == predicted.weights_of_checkpoint + nbytes(moments)


def test_in_fp32_the_base_itself_is_trained(tiny_base: Path) -> None:
    base, denoiser = of_base(tiny_base)
    weights = sum(parameter.nbytes for parameter in denoiser.parameters())
    parts = predict_from(settings(train={"precision": "fp32"}), base).training
    assert (parts["base model"], parts["trained weights"]) == (weights, 0)
    moved = predict_from(settings(optim={"offload": True, "optimizer": "adafactor"}), base)
    assert moved.training["trained weights"] == moved.training["gradients"] == moved.training["optimizer"] == 0
    assert moved.ram > PROCESS_RAM + 3 * weights, "loaded in fp32, then its master weights and gradients"


@pytest.mark.parametrize("side", [64, 128])
def test_activations_as_autograd_keeps_them(any_base: Path, side: int) -> None:
    _, denoiser = of_base(any_base)
    family, base = detect(str(any_base)), str(any_base)
    denoiser.requires_grad_(True)
    encoder = family.load_text_encoder(base, torch.float32)
    text = family.encode_text(family.load_tokenizer(base), encoder, ["red circle"])
    text = {name: rows.detach() for name, rows in text.items()} | family.size_conditions(torch.full((1, 6), 64.0))
    weights = {parameter.untyped_storage().data_ptr() for parameter in denoiser.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        noisy = torch.randn(1, 4, side // 8, side // 8)
        family.predict(denoiser, None, noisy, torch.tensor([500]), text, None).square().mean()
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    sizes = count_unet(dict(denoiser.config), side, family.text_length(text), Learned(control=False, base="everything"))
    assert 4 * sizes.denoiser.kept == pytest.approx(measured, rel=0.1)
    assert sizes.denoiser.trained == sum(unit.trained for unit in sizes.denoiser.units)
    assert (sizes.controlnet.weights, sizes.residuals) == (0, 0)


def counted_and_estimated(scope: str, batch: int) -> tuple[int, Prediction]:
    train = {"gradient_checkpointing": scope, "batch_size": batch, "accumulation": 1, "base_storage": "same"}
    counted = count("8gb", "sd1", train=train)
    assert sum(counted.estimated.pictures.values()) < sum(counted.estimated.training.values()), "it draws nothing"
    return counted.training, counted.estimated


@pytest.mark.long
def test_a_step_at_real_shapes_needs_what_is_estimated() -> None:
    """The app's own step on the simulated card, with SD 1.5."""
    training, estimated = counted_and_estimated("none", 16)
    assert estimated.step == pytest.approx(training, rel=0.03)
    assert estimated.training["activations"] > 0.2 * training


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("scope", "batch"), [("none", 2), ("controlnet", 32), ("both", 4)])
def test_steps_at_real_shapes_need_what_is_estimated(scope: str, batch: int) -> None:
    training, estimated = counted_and_estimated(scope, batch)
    assert estimated.step == pytest.approx(training, rel=0.03)


def test_what_would_save_memory_knows_that_there_is_no_controlnet(tiny_base: Path) -> None:
    """Checkpointing "both" covers no more than "controlnet" does, and a base that is trained cannot be quantized."""
    base, _ = of_base(tiny_base)
    run = settings(train={"precision": "bf16", "batch_size": 1, "gradient_checkpointing": "controlnet"})
    wider = {"train": run.train.model_copy(update={"gradient_checkpointing": "both"})}
    assert predict_from(run, base).training == predict_from(run.model_copy(update=wider), base).training
    assert step_time(run) == step_time(run.model_copy(update=wider))
    assert not facts_of(run).base_is_frozen
    found = options(run, base, Machine(on_card=True, eight_bit=True))
    assert found and not any("train.base_storage" in one.settings for one in found)
    maps = 3 * run.data.resolution**2
    assert predict_from(run, base, images=1).cache < maps, "no condition maps are prepared"
