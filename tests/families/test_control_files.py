"""A family whose control nets have a class, names in files and inputs of their own brings them itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.export.out import export
from engine.families.control_files import ControlFiles, T
from engine.families.registry import detect
from engine.families.unet_control_files import UNET_FILES
from engine.families.unet_sizes import control_channels
from engine.nets.importing import open_controlnet, read_controlnet
from engine.nets.outputs import fixed_outputs
from engine.nets.reading import read_net_file
from tests.checkpoint_folder import write_checkpoint
from tests.families import made_up

PREFIX = "made_up."


class MadeUpNet(ControlNetModel):
    """Another class than that of the other families' nets."""


class Files(ControlFiles):
    """Every name begins with ``PREFIX``."""

    trigger = "controlnet_cond_embedding.conv_in.weight"
    config_mark = "block_out_channels"
    same_as_base = {"cross_attention_dim": "the width of its text"}
    own_entries = ("conditioning_embedding_out_channels",)

    def control_channels(self, config: Mapping[str, Any]) -> int:
        return int(config["conditioning_channels"])

    def config_from_shapes(self, shapes: Mapping[str, Any], name: str) -> dict[str, Any]:
        return UNET_FILES.config_from_shapes(shapes, name)

    def recognize(self, names: Collection[str]) -> str:
        return "single_file" if all(name.startswith(PREFIX) for name in names) else ""

    def plain_names(self, format: str, tensors: Mapping[str, T]) -> dict[str, T]:
        return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


class OwnNets(made_up.MadeUp):
    facts = replace(made_up.MADE_UP, net_class="MadeUpNet", control_files=Files())

    def new_controlnet(self, denoiser: Any) -> MadeUpNet:
        widths = control_channels(denoiser.config["block_out_channels"][0])
        return MadeUpNet.from_unet(denoiser, conditioning_embedding_out_channels=widths).float()

    def control_outputs(self, net: Any, generator: torch.Generator) -> list[torch.Tensor]:
        assert isinstance(net, MadeUpNet)
        return [*super().control_outputs(net, generator), torch.ones(7)]


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    made_up.register(monkeypatch, OwnNets)
    monkeypatch.setattr(diffusers, "MadeUpNet", MadeUpNet, raising=False)
    return str(made_up.build(tiny_base, tmp_path / "made-up"))


@pytest.fixture
def net(base: str) -> Any:
    family = detect(base)
    return family.new_controlnet(family.load_denoiser(base, torch.float32))


def test_its_files_are_read_by_its_own_names_and_refused_for_others(
    base: str, net: Any, tiny_base: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.safetensors"
    save_file({PREFIX + name: weight.contiguous() for name, weight in net.state_dict().items()}, file)
    found = read_net_file(file)
    assert found.files is OwnNets.facts.control_files and found.tensors.keys() == net.state_dict().keys()
    opened = open_controlnet(file, detect(base), base)
    assert type(opened) is MadeUpNet and all(
        torch.equal(w, net.state_dict()[n]) for n, w in opened.state_dict().items()
    )
    with pytest.raises(UserError, match="does not fit the base") as refused:
        read_controlnet(file, detect(str(tiny_base)), str(tiny_base))
    assert "another kind of base than Stable Diffusion 1.x" in refused.value.why

    plain = tmp_path / "plain.safetensors"
    save_file({name: weight.contiguous() for name, weight in net.state_dict().items()}, plain)
    assert read_net_file(plain).files is UNET_FILES
    with pytest.raises(UserError, match="does not fit the base") as refused:
        read_controlnet(plain, detect(base), base)
    assert "another kind of base than Made Up" in refused.value.why


def test_its_outputs_are_computed_by_the_family(base: str, net: Any) -> None:
    config = dict(net.config) | {"_class_name": "MadeUpNet"}
    assert fixed_outputs(config, net.state_dict())[-1].shape == (7,)
    assert fixed_outputs(dict(net.config), net.state_dict())[-1].ndim == 4, "without a class it is the first family's"


def test_formats_that_do_not_exist_for_its_nets_are_refused(base: str, net: Any, tmp_path: Path) -> None:
    net.save_pretrained(tmp_path / "net")
    checkpoint = write_checkpoint(tmp_path / "step-000500", tmp_path / "net", family="made_up", base=base)
    with pytest.raises(UserError, match="cannot be exported as") as refused:
        export(checkpoint, "ldm", tmp_path / "out", "net")
    assert "Made Up" in refused.value.why and "Folder for diffusers" in refused.value.try_this
    made = export(checkpoint, "diffusers", tmp_path / "out", "net", precision="fp32", weights="plain")
    weights = load_file(made.path / "diffusion_pytorch_model.safetensors")
    assert weights.keys() == net.state_dict().keys()
