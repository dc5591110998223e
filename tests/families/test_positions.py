"""The table of positions stays in RAM, angles are computed where there is fp64, and the results stay the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel

from engine.families import positions
from engine.families.flux import Flux
from engine.families.sd3 import StableDiffusion3
from engine.machine.capabilities import CAPABILITIES

FAMILY = StableDiffusion3()
SIZES = [(8, 8), (8, 16), (16, 8), (8, 8)]
"""Of latents. The table of the tiny base has 12 x 12 tokens of 2 x 2 latents."""


@pytest.fixture(scope="module")
def base(tiny_sd3: Path) -> Any:
    return FAMILY.load_denoiser(str(tiny_sd3), torch.float32)


def embedded(net: Any, height: int, width: int) -> torch.Tensor:
    latents = torch.randn((1, 16, height, width), generator=torch.Generator().manual_seed(height + 2 * width))
    with torch.no_grad():
        return net.pos_embed(latents.to(net.pos_embed.proj.weight.dtype))


def test_tokens_are_those_of_diffusers_layer_for_images_of_any_size(base: Any, tiny_sd3: Path) -> None:
    theirs = SD3Transformer2DModel.from_pretrained(tiny_sd3, subfolder="transformer", torch_dtype=torch.float32)
    net = FAMILY.new_controlnet(base)
    for size in SIZES:
        assert torch.equal(embedded(base, *size), embedded(theirs, *size))
        assert torch.equal(embedded(net, *size), embedded(theirs, *size))


def test_the_table_of_every_net_stays_where_it_is(base: Any, tmp_path: Path) -> None:
    net = FAMILY.new_controlnet(base)
    net.save_pretrained(tmp_path)
    nets = [copy.deepcopy(base), net, FAMILY.load_controlnet(tmp_path), FAMILY.empty_controlnet(dict(net.config))]
    for one in nets:
        table = one.pos_embed.pos_embed.clone()
        one.to(torch.bfloat16).to("meta")
        assert one.pos_embed.proj.weight.is_meta and one.pos_embed.proj.weight.dtype == torch.bfloat16
        assert torch.equal(one.pos_embed.pos_embed, table) and not table.is_meta
        tokens = one.pos_embed(torch.empty(1, 16, 8, 8, dtype=torch.bfloat16, device="meta"))
        assert tokens.is_meta and tokens.shape == (1, 16, 32), "the part that is read is on the net's device"


def test_it_is_saved_and_loaded_with_the_weights(base: Any, tmp_path: Path) -> None:
    net = FAMILY.new_controlnet(base)
    before = embedded(net, 8, 8)
    net.load_state_dict(net.state_dict() | {"pos_embed.pos_embed": net.pos_embed.pos_embed + 1})
    assert torch.allclose(embedded(net, 8, 8), before + 1)
    assert torch.allclose(embedded(copy.deepcopy(net), 8, 8), before + 1)
    net.save_pretrained(tmp_path)
    saved = SD3ControlNetModel.from_pretrained(tmp_path)
    assert torch.equal(saved.pos_embed.pos_embed, net.pos_embed.pos_embed)


def test_flux_angles_come_from_the_processor_where_a_card_has_no_fp64(
    tiny_flux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base: Any = Flux().load_denoiser(str(tiny_flux), torch.float32)
    net = Flux().new_controlnet(base)
    ids, moved = torch.arange(24).reshape(8, 3), []

    def to_processor(numbers: torch.Tensor) -> torch.Tensor:
        moved.append(numbers)
        return numbers.clone()

    usual = base.pos_embed(ids)
    monkeypatch.setattr(positions, "capabilities", lambda kind: CAPABILITIES["intel"])
    monkeypatch.setattr(torch.Tensor, "cpu", to_processor)
    for one in (base, net, Flux().empty_controlnet(dict(net.config))):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one.pos_embed(ids), usual, strict=True))
    assert len(moved) == 3
