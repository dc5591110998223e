"""Every family leaves in every format, is checked with all that it reads, and comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import UserError
from engine.export import export, self_check
from engine.export.formats import FORMATS, get
from engine.export.source import read_source, whole_checkpoint
from engine.families.facts import version_of
from engine.families.registry import detect
from engine.nets.importing import read_controlnet
from engine.nets.outputs import largest_difference
from tests.checkpoint_folder import write_checkpoint

WEIGHTS = "diffusion_pytorch_model.safetensors"
TAGS = {"tiny_base": "sd15", "tiny_sd2": "sd21", "tiny_sdxl": "sdxl"}


@pytest.fixture
def leave(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], tuple[str, Path]]:
    """A base by its fixture's name, and a checkpoint of a net for it that speaks up."""

    def make(name: str) -> tuple[str, Path]:
        base = str(request.getfixturevalue(name))
        family = detect(base)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            net = family.new_controlnet(family.load_denoiser(base, torch.float32))
            for key, weight in net.named_parameters():
                if key.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
                    torch.nn.init.normal_(weight, std=0.2)
        net.save_pretrained(tmp_path / "net")
        facts: dict[str, Any] = {"family": family.name, "base": base, "has_ema": False}
        return base, write_checkpoint(tmp_path / "step-000500", tmp_path / "net", **facts)

    return make


@pytest.mark.parametrize(
    "name", ["tiny_base", *(pytest.param(name, marks=pytest.mark.long) for name in ("tiny_sd2", "tiny_sdxl"))]
)
def test_every_format_there_and_back(leave: Any, tmp_path: Path, name: str) -> None:
    base, checkpoint = leave(name)
    family, original = detect(base), load_file(checkpoint / "controlnet" / WEIGHTS)
    for way in FORMATS:
        if way.holds_base:
            continue  # test_onnx.py
        made = export(checkpoint, way.name, tmp_path / "out", way.name, "fp16", base=base)
        assert made.path.name == f"{way.name}_{TAGS[name]}{get(way.name).ending}"
        assert version_of(made.path.name) is family.facts
        assert "draws the same image" in made.checked
        assert ("ComfyUI, AUTOMATIC1111 and Forge recognize it" in made.checked) == bool(way.ending)
        found = read_controlnet(made.path, family, base)
        assert found.tensors.keys() == original.keys()
        if not way.ranks:
            assert all(torch.equal(found.tensors[key], weight.half()) for key, weight in original.items())
    others = [str(path) for path in (tmp_path / "out").glob("*.safetensors") if TAGS[name] not in path.name]
    assert others == []


def test_the_check_of_an_xl_net_reads_sizes_and_pooled_text(leave: Any) -> None:
    _, checkpoint = leave("tiny_sdxl")
    source = read_source(whole_checkpoint(checkpoint), "fp32", "plain")
    assert "add_embedding.linear_1.weight" in source.tensors
    deaf = {key: weight * 0 if key.startswith("add_embedding.") else weight for key, weight in source.tensors.items()}
    assert largest_difference(source.config, source.original, deaf) > 1e-3
    with pytest.raises(UserError, match="outputs differ"):
        self_check.check(replace(source, tensors=deaf), source.config, deaf)


@pytest.mark.answers("Does my ControlNet work with other models of the same family?")
@pytest.mark.parametrize(
    ("name", "other"), [pytest.param("tiny_sdxl", "tiny_base", marks=pytest.mark.long), ("tiny_base", "tiny_sdxl")]
)
def test_a_net_of_another_family_is_refused_by_name(
    leave: Any, request: pytest.FixtureRequest, tmp_path: Path, name: str, other: str
) -> None:
    base, checkpoint = leave(name)
    wrong = str(request.getfixturevalue(other))
    for format in ("single_file", "control_lora"):
        made = export(checkpoint, format, tmp_path / "out", format, "fp16", base=base).path
        with pytest.raises(UserError, match="does not fit"):
            read_controlnet(made, detect(wrong), wrong)


def test_a_name_of_another_version_is_refused(leave: Any, tmp_path: Path) -> None:
    _, checkpoint = leave("tiny_sdxl")
    with pytest.raises(UserError, match="another base version"):
        export(checkpoint, "single_file", tmp_path / "out", "my_sd15_style")
