"""The files of a ControlNet for Z-Image: the card's code and workflow, ComfyUI's folder, the published layouts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from engine.config import RunConfig
from engine.errors import UserError
from engine.export.deliver import folder_of_kind, models_folder, program
from engine.export.formats import ExportResult
from engine.export.out import export
from engine.families.facts import ZIMAGE
from engine.families.registry import Family, by_name
from engine.families.zimage_net import ZImageControlNetModel
from engine.families.zimage_sizes import control_places
from engine.nets.importing import open_controlnet
from tests.checkpoint_folder import write_checkpoint
from tests.families.test_zimage import LAYOUT_OF_6
from tests.families.transformer_nets import ZIMAGE_OUTPUTS, randomized


@pytest.fixture(scope="module")
def family() -> Family:
    return by_name(ZIMAGE.name)


@pytest.fixture(scope="module")
def made(family: Family, tiny_zimage: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """One file, exported in fp32, of a net whose outputs are not zero."""
    folder = tmp_path_factory.mktemp("zimage-files")
    net = randomized(family.new_controlnet(family.load_denoiser(str(tiny_zimage), torch.float32)), ZIMAGE_OUTPUTS)
    net.save_pretrained(folder / "net")
    about = {"family": "zimage", "base": "my-base", "has_ema": False}
    checkpoint = write_checkpoint(folder / "run" / "checkpoints" / "step-000500", folder / "net", **about)
    config = RunConfig().model_dump(mode="json")
    config["data"] |= {"resolution": 64}
    (folder / "run" / "run.json").write_text(json.dumps({"config": config, "condition": {}}), encoding="utf-8")
    return export(checkpoint, "single_file", folder / "out", "mine", "fp32", base=str(tiny_zimage))


def test_the_cards_code_runs(
    made: ExportResult, tiny_zimage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edges: Image.Image
) -> None:
    assert made.card is not None
    readme = (made.card / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.S)
    assert code is not None and "torch.bfloat16" in code[1] and "ZImageControlNetModel" in code[1]
    shutil.copy(made.path, tmp_path)
    (tmp_path / "my-base").symlink_to(tiny_zimage, target_is_directory=True)
    edges.save(tmp_path / "map.png")
    monkeypatch.chdir(tmp_path)
    faster = code[1].replace('pipeline("your prompt"', 'pipeline("your prompt", num_inference_steps=2')
    assert faster != code[1]
    exec(compile(faster, "card", "exec"), {})
    with Image.open("picture.png") as picture:
        assert picture.size == (64, 64)


def test_the_workflow_patches_the_model(made: ExportResult) -> None:
    card, file = made.card, made.path.name
    assert card is not None and file == "mine_zimage.safetensors"
    server = json.loads((card / "comfyui_workflow_api.json").read_text(encoding="utf-8"))
    of = {node["class_type"]: node["inputs"] for node in server.values()}
    kind = lambda link: server[link[0]]["class_type"]  # noqa: E731
    assert not any("ControlNetLoader" in one or "Checkpoint" in one for one in of)
    assert of["ModelPatchLoader"] == {"name": file}
    applied = of["ZImageFunControlnet"]
    assert {name: kind(applied[name]) for name in ("model", "model_patch", "vae")} == {
        "model": "UNETLoader",
        "model_patch": "ModelPatchLoader",
        "vae": "VAELoader",
    }
    assert kind(of["KSampler"]["model"]) == "ZImageFunControlnet"
    assert kind(of["KSampler"]["positive"]) == kind(of["KSampler"]["negative"]) == "CLIPTextEncode"
    assert kind(of["CLIPTextEncode"]["clip"]) == "CLIPLoader" and of["CLIPLoader"]["type"] == "lumina2"
    editor = json.loads((card / "comfyui_workflow.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in editor["nodes"]}
    for _, source, output, target, slot, type_name in editor["links"]:
        assert nodes[source]["outputs"][output]["type"] == type_name == nodes[target]["inputs"][slot]["type"]
    assert "models/model_patches" in (card / "README.md").read_text(encoding="utf-8")


def test_comfyui_finds_it_in_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "comfy").mkdir()
    target = models_folder(tmp_path, program("comfyui"))
    assert folder_of_kind(target, Path("mine_zimage.safetensors")) == tmp_path / "models" / "model_patches"
    assert folder_of_kind(target, Path("mine_sd15.safetensors")) == target == tmp_path / "models" / "controlnet"


@pytest.mark.parametrize("layers, changes", [(6, LAYOUT_OF_6), (3, {})])
def test_published_layouts_are_opened_by_their_tensors_alone(
    family: Family, tiny_zimage: Path, tmp_path: Path, layers: int, changes: dict[str, Any]
) -> None:
    base = str(tiny_zimage)
    denoiser = family.load_denoiser(base, torch.float32)
    config = {**family.new_controlnet(denoiser).config, **changes}
    config["control_layers_places"] = control_places(6, layers)
    net = randomized(ZImageControlNetModel.from_config(config), ZIMAGE_OUTPUTS)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, tmp_path / "net.safetensors")
    opened = open_controlnet(tmp_path / "net.safetensors", family, base)
    outputs = [family.control_outputs(one, torch.Generator().manual_seed(0)) for one in (net, opened)]
    assert len(outputs[0]) == layers + (0 if changes else 2)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*outputs, strict=True))


def test_the_published_net_with_silent_refiners_is_refused(family: Family, tiny_zimage: Path, tmp_path: Path) -> None:
    """Version 2.0 runs its layers in their place, which ComfyUI and diffusers do for this file alone."""
    base = str(tiny_zimage)
    net = family.new_controlnet(family.load_denoiser(base, torch.float32))
    config = {**net.config, "control_layers_places": control_places(30, 15)}
    tensors = randomized(ZImageControlNetModel.from_config(config), ZIMAGE_OUTPUTS).state_dict()
    tensors["control_noise_refiner.0.after_proj.weight"].zero_()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=r"version 2\.0"):
        open_controlnet(tmp_path / "net.safetensors", family, base)
