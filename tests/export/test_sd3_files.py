"""The files of a ControlNet for Stable Diffusion 3: what travels with them, and the way back into the app."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.config import RunConfig
from engine.errors import UserError
from engine.export.formats import ExportResult
from engine.export.out import export
from engine.families.registry import Family, detect
from engine.nets.importing import open_controlnet
from engine.nets.initial import initial_controlnet
from engine.training.new_run import missing
from engine.workspace.paths import Workspace
from tests.checkpoint_folder import write_checkpoint


@pytest.fixture(scope="module")
def family(tiny_sd3: Path) -> Family:
    return detect(str(tiny_sd3))


@pytest.fixture(scope="module")
def net(family: Family, tiny_sd3: Path) -> Any:
    """A ControlNet whose outputs are not zero."""
    made: Any = family.new_controlnet(family.load_denoiser(str(tiny_sd3), torch.float32))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for block in made.controlnet_blocks:
            torch.nn.init.normal_(block.weight, std=0.2)
    return made


@pytest.fixture(scope="module")
def made(net: Any, tiny_sd3: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportResult]:
    """Both formats, exported in fp32."""
    folder = tmp_path_factory.mktemp("sd3-files")
    net.save_pretrained(folder / "net")
    about = {"family": "sd3", "base": "my-base", "has_ema": False}
    checkpoint = write_checkpoint(folder / "run" / "checkpoints" / "step-000500", folder / "net", **about)
    config = RunConfig().model_dump(mode="json")
    config["data"] |= {"resolution": 64}
    (folder / "run" / "run.json").write_text(json.dumps({"config": config, "condition": {}}), encoding="utf-8")
    names = ("single_file", "diffusers")
    return {one: export(checkpoint, one, folder / one, "mine", "fp32", base=str(tiny_sd3)) for one in names}


@pytest.mark.parametrize("format", ["single_file", "diffusers"])
def test_the_cards_code_runs(
    made: dict[str, ExportResult],
    format: str,
    tiny_sd3: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edges: Image.Image,
) -> None:
    card = made[format].card
    assert card is not None
    readme = (card / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.S)
    assert code is not None and "torch.bfloat16" in code[1] and "SD3ControlNetModel" in code[1]
    here = tmp_path / "here"
    if made[format].path.is_dir():
        shutil.copytree(made[format].path, here)
    else:
        here.mkdir()
        shutil.copy(made[format].path, here)
    (here / "my-base").symlink_to(tiny_sd3, target_is_directory=True)
    edges.save(here / "map.png")
    monkeypatch.chdir(here)
    faster = code[1].replace('pipeline("your prompt"', 'pipeline("your prompt", num_inference_steps=2')
    assert faster != code[1]
    exec(compile(faster, "card", "exec"), {})
    with Image.open("picture.png") as picture:
        assert picture.size == (64, 64)


def test_the_workflow_has_the_nodes_for_this_base(made: dict[str, ExportResult]) -> None:
    card, file = made["single_file"].card, made["single_file"].path.name
    assert card is not None and file == "mine_sd3.safetensors"
    server = json.loads((card / "comfyui_workflow_api.json").read_text(encoding="utf-8"))
    of = {node["class_type"]: node["inputs"] for node in server.values()}
    kind = lambda link: server[link[0]]["class_type"]  # noqa: E731
    assert "ControlNetApplySD3" not in of, "ComfyUI marks it as deprecated"
    assert "EmptyLatentImage" not in of
    assert of["ControlNetLoader"] == {"control_net_name": file}
    applied = of["ControlNetApplyAdvanced"]
    assert kind(applied["vae"]) == "CheckpointLoaderSimple" and applied["vae"][1] == 2
    assert kind(applied["control_net"]) == "ControlNetLoader" and kind(applied["image"]) == "CannyEdgePreprocessor"
    assert of["TripleCLIPLoader"] == {
        "clip_name1": "clip_l.safetensors",
        "clip_name2": "clip_g.safetensors",
        "clip_name3": "t5xxl_fp16.safetensors",
    }
    assert kind(of["CLIPTextEncode"]["clip"]) == "TripleCLIPLoader"
    assert (of["KSampler"]["sampler_name"], of["KSampler"]["scheduler"]) == ("euler", "sgm_uniform")
    assert kind(of["KSampler"]["latent_image"]) == "EmptySD3LatentImage"
    editor = json.loads((card / "comfyui_workflow.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in editor["nodes"]}
    for _, source, output, target, slot, type_name in editor["links"]:
        assert nodes[source]["outputs"][output]["type"] == type_name == nodes[target]["inputs"][slot]["type"]
    readme = (card / "README.md").read_text(encoding="utf-8")
    assert "models/controlnet" in readme and "clip_g.safetensors" in readme
    assert "AUTOMATIC1111" not in readme and not (card / "automatic1111.txt").exists(), "it reads no such nets"


def test_its_files_are_read_again_to_train_from_and_to_draw_with(
    made: dict[str, ExportResult], net: Any, family: Family, tiny_sd3: Path, tmp_path: Path
) -> None:
    base, weights = str(tiny_sd3), net.state_dict()
    denoiser = family.load_denoiser(base, torch.float32)
    for result in made.values():
        config = RunConfig.model_validate({"model": {"base": base, "controlnet": str(result.path)}})
        started = initial_controlnet(tmp_path, config, family, base, denoiser)
        opened = open_controlnet(result.path, family, base)
        for again in (started, opened):
            assert again.config.force_zeros_for_pooled_projection
            assert all(torch.equal(weights[name], weight) for name, weight in again.state_dict().items())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("rgb", "control images of 3 channels"),
        ("mask", "control images of 17 channels"),
        ("width", "the width of its text"),
        ("large", "is not a ControlNet"),
    ],
)
def test_foreign_nets_are_refused_in_words(
    made: dict[str, ExportResult], family: Family, tiny_sd3: Path, tmp_path: Path, change: str, why: str
) -> None:
    weights = load_file(made["single_file"].path)
    hint, text = "pos_embed_input.proj.weight", "context_embedder.weight"
    if change == "rgb":
        weights[hint] = weights[hint][:, :3].clone()
    elif change == "mask":
        weights[hint] = torch.cat([weights[hint], weights[hint][:, :1]], dim=1)
    elif change == "width":
        weights[text] = weights[text][:, :64].clone()
    else:  # the layout of the nets that came with Stable Diffusion 3.5 Large
        weights = {
            "controlnet_blocks.0.weight": torch.zeros(2),
            "transformer_blocks.0.adaLN_modulation.1.bias": torch.zeros(2),
        }
    save_file(weights, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError) as refused:
        open_controlnet(tmp_path / "foreign.safetensors", family, str(tiny_sd3))
    assert why in str(refused.value), str(refused.value)


def test_a_net_of_another_family_is_refused_in_words(
    loud_controlnet: Path,
    made: dict[str, ExportResult],
    family: Family,
    tiny_sd3: Path,
    tiny_base: Path,
    tiny_sd2: Path,
    workspace: Workspace,
) -> None:
    with pytest.raises(UserError, match="another kind of base|does not fit"):
        open_controlnet(loud_controlnet, family, str(tiny_sd3))
    with pytest.raises(UserError, match="another kind of base"):
        open_controlnet(made["single_file"].path, detect(str(tiny_base)), str(tiny_base))

    def said(base: Path, start: Path) -> str:
        """What is told at the choice, before a run is started."""
        config = RunConfig.model_validate({"model": {"base": str(base), "controlnet": str(start)}})
        return " ".join(missing(workspace, config))

    assert "another kind of base than Stable Diffusion 3" in said(tiny_sd3, loud_controlnet)
    assert "does not fit" in said(tiny_sd2, loud_controlnet)
    for exported in made.values():
        assert "another kind of base than Stable Diffusion 1" in said(tiny_base, exported.path)
        assert "kind of base" not in said(tiny_sd3, exported.path)
