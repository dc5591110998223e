"""A run that goes on from a net with more blocks than a new one has is foreseen with these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel

from engine.config import RunConfig
from engine.estimate.memory import predict_from
from engine.families.facts import FLUX, SD1
from engine.families.files import LAYOUTS, read_configs
from engine.families.registry import by_name
from engine.families.sizes import Learned
from engine.nets.starting_controlnet import reads_latents, with_starting_net


def write_header(path: Path, weights: Mapping[str, torch.Tensor]) -> str:
    """A .safetensors file of which only the header is there."""
    entries = {
        name: {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [0, 0]} for name, weight in weights.items()
    }
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return str(path)


@pytest.fixture(scope="module")
def union(tmp_path_factory: pytest.TempPathFactory) -> str:
    """5 blocks of two streams and 10 of one, at real sizes."""
    config = json.loads((LAYOUTS / "flux" / "transformer" / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        denoiser = FluxTransformer2DModel.from_config(config)
        net: Any = by_name("flux").new_controlnet(denoiser, 5)
        net = FluxControlNetModel.from_config(net.config, num_single_layers=10, num_mode=10)
    return write_header(tmp_path_factory.mktemp("union") / "union.safetensors", net.state_dict())


def test_the_blocks_are_those_of_the_header(union: str, tmp_path: Path) -> None:
    assert with_starting_net(Learned(rank=4), union, FLUX) == Learned(rank=4, blocks=5, single_blocks=10)
    assert with_starting_net(Learned(), union, SD1) == with_starting_net(Learned(), "", FLUX) == Learned()
    (tmp_path / "half.safetensors").write_bytes(b"\x10")
    assert with_starting_net(Learned(), str(tmp_path / "half.safetensors"), FLUX) == Learned()


def test_they_are_foreseen(union: str) -> None:
    base = read_configs(LAYOUTS / "flux")
    new, going_on = (
        predict_from(RunConfig.model_validate({"model": {"base": "x", "controlnet": start}}), base)
        for start in ("", union)
    )
    more = 3_302_000_000 - 744_000_000
    assert going_on.weights_of_checkpoint - new.weights_of_checkpoint == pytest.approx(4 * more, rel=0.02)
    assert going_on.step - new.step > 12 * more


def test_a_net_that_reads_rgb_keeps_maps_in_place_of_latents(tmp_path: Path) -> None:
    """XLabs' nets for FLUX.1."""
    base = read_configs(LAYOUTS / "flux")
    with torch.device("meta"):
        net: Any = by_name("flux").new_controlnet(FluxTransformer2DModel.from_config(base.denoiser), 2)
        of_rgb = FluxControlNetModel.from_config(net.config, conditioning_embedding_channels=16, patch_size=2)
    files = FLUX.control_files
    nets = {"latents": net.state_dict(), "rgb": files.names_in_file(of_rgb.state_dict(), of_rgb.config)}
    paths = {name: write_header(tmp_path / f"{name}.safetensors", weights) for name, weights in nets.items()}
    assert {name: reads_latents(path, FLUX) for name, path in paths.items()} == {"latents": True, "rgb": False}
    assert reads_latents("", FLUX) and not reads_latents("", SD1)
    latents, rgb = (
        predict_from(RunConfig.model_validate({"model": model, "data": {"resolution": 1024}}), base, images=10)
        for model in ({"base": "x", "controlnet": path} for path in paths.values())
    )
    assert rgb.cache - latents.cache == 10 * (3 * 1024**2 - 2 * 16 * 128**2), "in 8 bits RGB, 16 channels in fp16"
