"""Frozen blocks of the base keep less for the backward pass, and their outputs and gradients are the same bits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from engine.nets.frozen_blocks import FrozenGEGLU, FrozenResnetBlock, use_frozen_blocks
from engine.nets.gradient_checkpointing import use_gradient_checkpointing
from tests.estimate.test_memory import nets


def kept_and_found(net: nn.Module, x: torch.Tensor, *more: torch.Tensor) -> tuple[int, list[torch.Tensor]]:
    """Bytes that autograd keeps beside the weights, each storage once; output, and gradient of the input."""
    weights = {weight.untyped_storage().data_ptr() for weight in net.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = net(x, *more)
    torch.manual_seed(2)
    answer.backward(torch.randn(answer.shape).to(answer))
    assert x.grad is not None
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), [answer.detach(), x.grad]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("out", [64, 96])
def test_a_residual_block_keeps_the_inputs_of_its_norms_alone(dtype: torch.dtype, layout: Any, out: int) -> None:
    torch.manual_seed(0)
    usual = ResnetBlock2D(in_channels=64, out_channels=out, temb_channels=32).requires_grad_(False)
    usual = usual.to(dtype=dtype, memory_format=layout)
    lean, x, time = copy.deepcopy(usual), torch.randn(2, 64, 12, 12).to(dtype=dtype), torch.randn(2, 32).to(dtype)
    use_frozen_blocks(lean)
    assert type(lean) is FrozenResnetBlock
    before, expected = kept_and_found(usual, x.to(memory_format=layout), time)
    after, found = kept_and_found(lean, x.to(memory_format=layout), time)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert found[0].stride() == expected[0].stride()
    own = 2 * 144 * dtype.itemsize  # bytes of a channel
    with torch.no_grad():
        assert torch.equal(lean(x, time), usual(x, time))
    assert after < before - (64 + out) * own, "the inputs of SiLU are not kept"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_geglu_keeps_its_projection_alone(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    usual = GEGLU(16, 64).requires_grad_(False).to(dtype)
    lean, x = copy.deepcopy(usual), torch.randn(2, 30, 16).to(dtype)
    use_frozen_blocks(lean)
    assert type(lean) is FrozenGEGLU
    (before, expected), (after, found) = kept_and_found(usual, x), kept_and_found(lean, x)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert (after, before) == (60 * 128 * dtype.itemsize, 60 * (128 + 64) * dtype.itemsize)


def test_what_is_trained_or_of_another_form_stays_as_it_is() -> None:
    frozen = {"in_channels": 32, "temb_channels": 32}
    blocks: list[nn.Module] = [
        ResnetBlock2D(**frozen, up=True), ResnetBlock2D(**frozen, down=True), ResnetBlock2D(**frozen, dropout=0.1),
        ResnetBlock2D(**frozen, non_linearity="gelu"), ResnetBlock2D(**frozen, time_embedding_norm="scale_shift"),
    ]  # fmt: skip
    for block in blocks:
        block.requires_grad_(False)
    trained = [ResnetBlock2D(**frozen), GEGLU(8, 8)]
    trained[0].requires_grad_(False).norm2.weight.requires_grad_(True)
    net = nn.ModuleList([*blocks, *trained])
    use_frozen_blocks(net)
    assert not [one for one in net.modules() if isinstance(one, FrozenResnetBlock | FrozenGEGLU)]


@pytest.mark.parametrize("scope", ["none", "both"])
def test_the_gradients_of_a_whole_step_are_the_same_bits(tiny_base: Path, scope: str) -> None:
    family, unet, net = nets(tiny_base, 0)
    unet.requires_grad_(False)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02
    text = {"hidden": torch.randn(2, 7, unet.config.cross_attention_dim)}
    use_gradient_checkpointing(net, unet, scope, family.layers)
    noisy, control = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 64, 64)
    found = []
    for lean in (False, True):
        if lean:
            use_frozen_blocks(unet)
            assert sum(isinstance(one, FrozenResnetBlock) for one in unet.modules()) > 3
        net.zero_grad()
        family.predict(unet, net, noisy, torch.full((2,), 500), text, control).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None])
    assert len(found[0]) > 20 and all(torch.equal(one, other) for one, other in zip(*found, strict=True))
