"""What saves memory changes nothing, or as little as it says: a quantized base, and training in RAM."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.config import RunConfig
from engine.config.presets import resolve
from engine.errors import UserError
from engine.families.layers import UNET
from engine.families.registry import detect
from engine.machine.optional import why_no_four_bits
from engine.nets import frozen_layers
from engine.nets.frozen_layers import dequantized_weight, is_quantized, quantize_base, use_frozen_convolutions
from engine.nets.lora import lora_layers, merged_weights, to_control_lora
from engine.nets.weight_quantization import FP8, dequantize, quantize
from engine.training.new_run import missing
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint, losses
from tests.short_runs import RunFactory, train


@pytest.mark.parametrize("size", [1e-3, 0.03, 40.0])
def test_eight_bits_keep_weights_of_any_size_to_a_sixteenth(size: float) -> None:
    weight = size * torch.randn(64, 320, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[3] *= 100
    small, scale = quantize(weight, "fp8")
    back = dequantize(small, scale, torch.float32, weight.shape)
    assert small.dtype == FP8 and small.nbytes == weight.nbytes / 4
    assert ((back - weight).norm() / weight.norm()) < 0.03
    normal = weight.abs() > 2**-6 * scale[:, None, None, None]  # above its smallest numbers
    assert ((back - weight).abs() <= weight.abs() / 16 + 1e-12)[normal].all()


@pytest.mark.parametrize(
    ("kind", "bits", "lost"), [("int8", 8 + 32 / 320, 0.01), ("fp8", 8 + 32 / 320, 0.027), ("nf4", 4.25, 0.095)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantization_loses_as_much_as_it_says(kind: str, bits: float, lost: float, dtype: torch.dtype) -> None:
    """Of weights like noise, whose output channels have sizes of their own; their rounding in bf16 comes on top."""
    weight = torch.randn(64, 320, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 1, 64)[:, None]
    weight[5] = 0
    small, scale = quantize(weight.to(dtype), kind)
    assert small.nbytes + scale.nbytes == bits * weight.numel() / 8
    back = dequantize(small, scale, dtype, weight.shape)
    assert back.dtype == dtype and back.shape == weight.shape and not back[5].any()
    given = weight.to(dtype).float()
    for row in (given != 0).any(1).nonzero().flatten():
        assert (back[row].float() - given[row]).norm() < 1.2 * lost * given[row].norm()
    difference = (back.float() - given) / given.norm(dim=1, keepdim=True).clamp_min(1e-12)
    assert 0.5 * lost < difference.square().sum(1).mean().sqrt() < lost


@pytest.mark.parametrize("kind", ["fp8", "int8", "nf4"])
@pytest.mark.parametrize("layer", [nn.Linear(8, 6), nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(3, 5, 1, bias=False)])
def test_gradients_through_a_small_layer_are_those_of_its_widened_weight(layer: nn.Module, kind: str) -> None:
    layer = copy.deepcopy(layer)
    layer.weight.requires_grad_(False)
    net = nn.ModuleDict({"mid_block": nn.ModuleList([layer])})
    quantize_base(net, kind=kind, modulation="base", layers=UNET)
    small = net["mid_block"][0]
    wide = type(layer).__mro__[1](**_settings(layer))
    wide.weight.data = dequantize(small.weight, small.scale, torch.float32, wide.weight.shape)
    assert torch.equal(dequantized_weight(small, torch.float32), wide.weight.data)
    if small.bias is not None:
        wide.bias.data = small.bias.data
    generator = torch.Generator().manual_seed(1)
    shape = (3, 8) if isinstance(layer, nn.Linear) else (3, layer.in_channels, 8, 8)
    inputs = [torch.randn(shape, generator=generator)]
    inputs = [inputs[0].clone().requires_grad_() for _ in range(2)]
    answers = [net(x) for net, x in zip((small, wide), inputs, strict=True)]
    for answer in answers:
        answer.square().sum().backward()
    assert torch.allclose(answers[0], answers[1], atol=1e-6)
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)
    if small.bias is not None:
        assert torch.allclose(small.bias.grad, wide.bias.grad, atol=1e-5)
    assert small.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "layer", [nn.Linear(64, 48), nn.Conv2d(32, 48, 3, 2, 1), nn.Conv2d(32, 48, 3, 1, 1, bias=False)]
)
def test_a_scale_on_the_output_gives_the_bits_of_one_on_the_weight(
    layer: nn.Module, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of small inputs, whose output is smaller than the weight. fp16 could overflow: there it stays on the weight."""
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight *= torch.logspace(-3, 1, 48).reshape(-1, *[1] * (layer.weight.ndim - 1))
    net = nn.ModuleDict({"mid_block": nn.ModuleList([layer.to(dtype)])}).requires_grad_(False)
    quantize_base(net, kind="fp8", modulation="base", layers=UNET)
    small, seen, found = net["mid_block"][0], [], []
    real = frozen_layers.scales_output
    monkeypatch.setattr(frozen_layers, "scales_output", lambda *given: seen.append(real(*given)) or seen[-1])
    x = torch.randn((5, 64) if isinstance(layer, nn.Linear) else (1, 32, 5, 5)).to(dtype)
    for at_output in (True, False):
        if not at_output:
            monkeypatch.setattr(frozen_layers, "scales_output", lambda *given: False)
        given = x.clone().requires_grad_()
        answer = small(given)
        answer.float().square().sum().backward()
        found.append((answer, given.grad))
    assert seen == [dtype != torch.float16] * 2
    assert all(map(torch.equal, *found)) and all(tensor.isfinite().all() for tensor in found[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-5, 1e-3, 0.03])
def test_half_precision_holds_scales_and_weights_exactly(dtype: torch.dtype, size: float) -> None:
    """Rounded scales would make whole channels larger or smaller than they are."""
    small, scale = quantize(size * torch.randn(64, 320, generator=torch.Generator().manual_seed(0)), "fp8")
    assert torch.equal(scale.to(dtype).float(), scale)
    exact = dequantize(small, scale, torch.float32, small.shape)
    held = exact.abs() >= (2**-14 if dtype == torch.float16 else 0)  # fp16's smaller numbers have fewer bits
    assert torch.equal(dequantize(small, scale, dtype, small.shape).float()[held], exact[held])


def _settings(layer: nn.Module) -> dict:
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.in_features, "out_features": layer.out_features}
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    return {**{name: getattr(layer, name) for name in names}, "bias": layer.bias is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_convolution_keeps_its_weight_alone_and_its_gradients_are_the_same_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    usual = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 6, 3, 2, 1), nn.Conv2d(6, 6, 1)).to(dtype)
    usual[2].weight.requires_grad_(True)  # this one learns
    for layer in usual[:2]:
        layer.requires_grad_(False)
    lean = copy.deepcopy(usual)
    use_frozen_convolutions(lean)
    found = []
    for net in (usual, lean):
        kept: list[torch.Tensor] = []
        x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            answer = net(x)
        answer.float().square().sum().backward()
        shapes = [tensor.shape for tensor in kept]
        found.append((answer, x.grad, net[2].weight.grad, (2, 4, 16, 16) in shapes, (2, 6, 8, 8) in shapes))
    assert all(torch.equal(one, other) for one, other in zip(found[0][:3], found[1][:3], strict=True))
    assert found[0][3:] == (True, True) and found[1][3:] == (False, True)


@pytest.mark.parametrize(("kind", "lost"), [("fp8", 0.05), ("nf4", 0.13)])
def test_nets_that_share_the_bases_weights_see_the_small_ones(tiny_base: Path, kind: str, lost: float) -> None:
    family = detect(str(tiny_base))
    unet = family.load_denoiser(str(tiny_base), torch.float32)
    net = family.new_controlnet(unet)
    to_control_lora(net, unet, 4, UNET)
    before = merged_weights(net)
    bytes_before = sum(p.nbytes for p in unet.parameters())
    quantize_base(unet, net, kind=kind, modulation="base", layers=UNET)
    quantize_base(unet, net, kind=kind, modulation="base", layers=UNET)  # a second time there is nothing to do
    assert sum(p.nbytes for p in unet.parameters()) < 0.4 * bytes_before
    assert unet.dtype == torch.float32, "diffusers asks its first weight"
    inside = [layer for name, layer in lora_layers(net).items() if name.startswith("down_blocks")]
    assert inside and all(is_quantized(layer) for layer in inside)
    after = merged_weights(net)
    assert all((after[name] - weight).norm() <= lost * weight.norm() for name, weight in before.items())
    noisy, text, hint = torch.randn(1, 4, 8, 8), {"hidden": torch.randn(1, 8, 64)}, torch.rand(1, 3, 64, 64)
    family.predict(unet, net, noisy, torch.tensor([500]), text, hint).square().mean().backward()
    learning = [name for name, p in net.named_parameters() if p.requires_grad]
    assert all(net.get_parameter(name).grad is not None for name in learning)


@pytest.mark.parametrize("kind", [pytest.param("fp8", marks=pytest.mark.long), "nf4"])
def test_a_run_over_a_small_base_resumes_bit_for_bit(
    kind: str, new_run: RunFactory, ready_workspace: Workspace
) -> None:
    settings = {
        "train.base_storage": kind,
        "train.gradient_checkpointing": "both",
        "train.steps": 4,
        "model.control_lora_rank": 4,
        "train.precision": "bf16",
        "validation.every": 4,
        "validation.pictures": 1,
        "validation.sampling_steps": 2,
        "validation.check_every": 50,
    }
    straight, paused = new_run(**settings), new_run(**settings)
    assert train(ready_workspace, straight).outcome == "completed"
    assert train(ready_workspace, paused, at_step={2: "pause"}).outcome == "paused"
    assert train(ready_workspace, paused).outcome == "completed"
    assert_same_checkpoint(straight.checkpoints()[-1].folder, paused.checkpoints()[-1].folder)


def test_learning_in_ram_is_the_same_learning(new_run: RunFactory, ready_workspace: Workspace) -> None:
    more = {"model.control_lora_rank": 4, "objective.sd_locked": False}
    settings = {"train.steps": 3, "train.accumulation": 2, **more}
    beside, apart = new_run(**settings), new_run(**settings, **{"optim.offload": True})
    for run in (beside, apart):
        assert train(ready_workspace, run).outcome == "completed"
    assert [loss for _, loss in losses(apart)] == pytest.approx([loss for _, loss in losses(beside)], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"train": {"base_storage": "fp8"}, "objective": {"sd_locked": False}}, "base that is being trained"),
        ({"train": {"base_storage": "nf4"}, "objective": {"sd_locked": False}}, "cannot be kept in nf4"),
        ({"optim": {"offload": True, "optimizer": "adamw8bit"}}, "need their state on the card"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict, word: str) -> None:
    with pytest.raises(UserError, match=word):
        resolve(("test", settings))


def test_four_bits_without_their_package_are_refused_at_the_choice(
    ready_workspace: Workspace, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(kind: str) -> list[str]:
        return missing(ready_workspace, make_config(**{"train.base_storage": kind}))

    assert said("nf4") == said("int8") == []
    monkeypatch.setattr(metadata, "version", lambda name: "0.49.1")
    assert "bitsandbytes 0.50 or newer" in said("nf4")[0] and why_no_four_bits("cuda") == ""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install bitsandbytes" in said("nf4")[0] and "int8" in said("nf4")[0] and said("int8") == []
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        quantize(torch.zeros(2, 2), "nf4")
