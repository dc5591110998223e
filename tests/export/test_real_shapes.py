"""Nets with every tensor of SD 1.5 and SDXL and random weights, through every format and the readers' rules.

The quick tests make them a tenth as wide, which leaves names and number of the tensors as they are; the long ones have
the real sizes.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel, UNet2DConditionModel

from engine.export import control_lora, readers
from engine.export.formats import FORMATS
from engine.export.naming import export_stem
from engine.export.source import Source
from engine.families import facts
from engine.families.layers import UNET
from engine.nets import low_rank_math
from engine.nets.outputs import empty_net

SD15: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


NARROW_SD15 = SD15 | {"block_out_channels": (32, 64, 128, 128)}
NARROW_SDXL = SDXL | {"block_out_channels": (32, 64, 128), "attention_head_dim": (2, 4, 8)}


def random_net(unet: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and fp16 weights of a ControlNet for a UNet of this config."""
    with init_empty_weights():
        net = ControlNetModel.from_unet(UNet2DConditionModel(**unet))
    config = {**dict(net.config), "_class_name": "ControlNetModel"}
    some = torch.randn(2**16, generator=torch.Generator().manual_seed(0)).half() / 50
    tensors = {}
    for number, (name, weight) in enumerate(net.state_dict().items()):
        count = weight.numel()
        tensors[name] = some.roll(number).repeat(-(-count // len(some)))[:count].reshape(weight.shape).contiguous()
    return config, tensors


def through(path: Path, module: str, source: Source) -> dict[str, torch.Tensor]:
    writer = importlib.import_module(module)
    writer.write(path, source)
    return writer.read(path)[1]


@pytest.mark.parametrize(
    ("unet", "family", "count"),
    [
        pytest.param(NARROW_SD15, facts.SD1, 340, id="narrow sd15"),
        pytest.param(NARROW_SDXL, facts.SDXL, 844, id="narrow sdxl"),
        pytest.param(SD15, facts.SD1, 340, id="sd15", marks=pytest.mark.long),
        pytest.param(SDXL, facts.SDXL, 844, id="sdxl", marks=pytest.mark.long),
    ],
)
def test_every_format_has_all_tensors(
    unet: dict[str, Any], family: facts.FamilyFacts, count: int, tmp_path: Path
) -> None:
    config, tensors = random_net(unet)
    shapes = {name: tuple(weight.shape) for name, weight in empty_net(config).state_dict().items()}
    assert len(tensors) == count
    source = Source(config, tensors, tensors, "fp16", {"format": "pt"})
    stem = export_stem("real", family)
    for way in FORMATS:
        if way.ranks or not way.ending:
            continue
        path = tmp_path / f"{stem}{way.ending}"
        back = through(path, way.module, source)
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[name], weight) for name, weight in tensors.items())
        raw = readers.raw_shapes(path)
        assert len(raw) == count
        assert "names" in readers.check(raw, shapes, config, stem, family)
        del back
        path.unlink()


@pytest.mark.parametrize(
    ("unet", "family", "rank"),
    [
        pytest.param(NARROW_SD15, facts.SD1, 6, id="narrow sd15"),
        pytest.param(NARROW_SDXL, facts.SDXL, 6, id="narrow sdxl"),
        pytest.param(SD15, facts.SD1, 64, id="sd15", marks=pytest.mark.long),
        pytest.param(SDXL, facts.SDXL, 64, id="sdxl", marks=pytest.mark.long),
    ],
)
def test_a_control_lora_is_read_for_its_version(
    unet: dict[str, Any], family: facts.FamilyFacts, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and shapes of the factors; their numbers are made up, to spare the hours of 300 factorisations."""
    monkeypatch.setattr(
        low_rank_math, "factorize", lambda m, rank: (torch.zeros(m.shape[0], rank), torch.zeros(rank, m.shape[1]))
    )
    config, tensors = random_net(unet)
    trunk = {name: weight for name, weight in tensors.items() if name.startswith(UNET.copied)}
    made = control_lora.factorize(tensors, trunk, rank, torch.float16)
    source = Source(config, tensors, made.tensors, "fp16", {"format": "pt"}, base=trunk)
    path = tmp_path / f"{export_stem('real', family)}.safetensors"
    back = through(path, "engine.export.control_lora", source)
    assert back.keys() == made.tensors.keys()
    shapes = {name: tuple(weight.shape) for name, weight in empty_net(config).state_dict().items()}
    assert readers.check(readers.raw_shapes(path), shapes, config, path.stem, family) == "a Control-LoRA"
    whole = sum(weight.numel() for weight in tensors.values()) * 2
    assert path.stat().st_size < 0.4 * whole
    other = "sdxl" if family is facts.SD1 else "sd15"
    with pytest.raises(readers.Misread, match="version"):
        readers.check(readers.raw_shapes(path), shapes, config, f"net_{other}", family)
