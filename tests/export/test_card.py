"""What travels with a net: facts, card, images, code that runs, a workflow whose links lead somewhere, a note."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.conditions import registry
from engine.config import RunConfig
from engine.errors import UserError
from engine.export import export, workflow
from engine.export.checkpoint_details import CheckpointDetails, read_details
from engine.export.model_card import automatic1111, card, settings, snippet
from engine.export.preprocessors import PREPROCESSORS, preprocessor
from engine.families.facts import FLUX, SD1, SD2
from tests.bases.hub import serving, use
from tests.checkpoint_folder import write_checkpoint
from tests.families.ldm_file import write_single_file

# Class names of comfyui_controlnet_aux, as its README and NODE_CLASS_MAPPINGS list them.
AUX_NODES = {
    "CannyEdgePreprocessor",
    "LineartStandardPreprocessor",
    "M-LSDPreprocessor",
    "ImageLuminanceDetector",
    "TilePreprocessor",
    "ColorPreprocessor",
    "DepthAnythingV2Preprocessor",
    "BAE-NormalMapPreprocessor",
    "HEDPreprocessor",
    "FakeScribblePreprocessor",
    "OpenposePreprocessor",
    "OneFormer-ADE20K-SemSegPreprocessor",
    "LineArtPreprocessor",
    "AnimeLineArtPreprocessor",
}


@pytest.fixture
def scored(loud_controlnet: Path, tmp_path: Path) -> Path:
    """A checkpoint in a run that has images and scores."""
    run = tmp_path / "2026-01-01_secret-project"
    config = RunConfig().model_dump(mode="json")
    config["data"] |= {"resolution": 64, "dataset": "secret-set"}
    config["model"] |= {"base": "/home/somebody/private/my-base", "clip_skip": 2}
    config["validation"] |= {"strength": 1.2, "sampling_steps": 7}
    checkpoint = write_checkpoint(run / "checkpoints" / "step-000500", loud_controlnet)
    (run / "run.json").write_text(json.dumps({"config": config, "condition": {}}), encoding="utf-8")
    previews = run / "previews" / "step-000500"
    previews.mkdir(parents=True)
    row = np.zeros((64, 288, 3), np.uint8)
    row[:, :96, 0], row[:, 96:192, 1], row[:, 192:] = 255, 255, 255  # map red, drawn green, original white
    Image.fromarray(row).save(previews / "00-row.webp", lossless=True)
    Image.fromarray(row[:, 96:192]).save(previews / "00.webp", lossless=True)
    scores = {"step": 500, "pictures": ["00-row.webp"], "captions": ["my secret garden"], "mean": {"adherence": 0.8125}}
    (previews / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return checkpoint


def test_the_header_has_the_score_and_nothing_private(scored: Path, tmp_path: Path) -> None:
    made = export(scored, "single_file", tmp_path / "out", "mine")
    with safe_open(made.path, framework="pt") as file:
        facts = file.metadata()
    assert (facts["score_adherence"], facts["resolution"]) == ("0.8125", "64")
    everything = json.dumps(facts) + "".join(
        path.read_text(encoding="utf-8") for path in made.card.iterdir() if path.suffix != ".webp"
    )
    assert not re.search("secret|somebody|private|/home", everything)


def test_the_card_shows_the_drawn_images_but_not_the_users_own(scored: Path, tmp_path: Path) -> None:
    made = export(scored, "single_file", tmp_path / "out", "mine")
    with Image.open(made.card / "example-1.webp") as example:
        assert example.size == (192, 64), "both are whole, also where they are not square"
        pixels = np.asarray(example.convert("RGB")).astype(int)
    assert pixels[:, 102:].min(axis=(0, 1))[1] > 200 and pixels[:, :, 2].max() < 60  # nowhere white
    card = (made.card / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "![example](example-1.webp)" in card and "| score on held-out pairs: adherence | 0.812 |" in card
    assert "| Clip skip | 2 |" in card and "encoder.layers[:-1]  # Clip skip 2" in card
    assert "Clip skip 2" in (made.card / "automatic1111.txt").read_text(encoding="utf-8")
    assert "Canny edges" in card and '{"blur": 0.0, "high": 150, "low": 50}' in card


@pytest.mark.parametrize("format", ["single_file", "diffusers"])
def test_the_cards_code_runs(
    scored: Path, tiny_base: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch, edges: Image.Image
) -> None:
    made = export(scored, format, tmp_path / "out", "mine", "fp32")
    assert made.card is not None
    code = re.search(r"```python\n(.*?)```", (made.card / "README.md").read_text(encoding="utf-8"), re.S)
    assert code is not None
    here = made.path if made.path.is_dir() else made.path.parent
    shutil.copytree(tiny_base, here / "my-base")
    edges.save(here / "map.png")
    monkeypatch.chdir(here)
    faster = code[1].replace('pipeline("your prompt"', 'pipeline("your prompt", num_inference_steps=2')
    assert faster != code[1]
    exec(compile(faster, "card", "exec"), {})
    with Image.open("picture.png") as picture:
        assert picture.size == (64, 64)


@pytest.mark.parametrize("format", ["single_file", "diffusers"])
def test_the_cards_code_runs_with_a_base_in_half_precision(
    scored: Path, tiny_base: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch, edges: Image.Image
) -> None:
    made = export(scored, format, tmp_path / "out", "mine")
    assert made.card is not None
    code = re.search(r"```python\n(.*?)```", (made.card / "README.md").read_text(encoding="utf-8"), re.S)
    assert code is not None
    here = made.path if made.path.is_dir() else made.path.parent
    shutil.copytree(tiny_base, here / "my-base")
    for file in (here / "my-base").rglob("*.safetensors"):
        save_file({name: value.half() for name, value in load_file(file).items()}, file, {"format": "pt"})
    edges.save(here / "map.png")
    monkeypatch.chdir(here)
    exec(compile(code[1].replace('"your prompt"', '"a", num_inference_steps=1'), "card", "exec"), {})
    assert (here / "picture.png").is_file()


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_the_cards_code_runs_with_a_base_in_one_file(
    scored: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edges: Image.Image, ending: str
) -> None:
    """diffusers asks the hub for the configs of such a base: a hub of this machine has those of the tiny one."""
    made = export(scored, "single_file", tmp_path / "out", "mine", "fp32")
    code = snippet(made.path.name, "single_file", f"one{ending}", SD1, read_details(scored))
    assert f'BASE = "one{ending}"' in code and "Clip skip 2" in code
    here = made.path.parent
    write_single_file(tiny_base, here / f"one{ending}")
    shutil.rmtree(here / "one")
    edges.save(here / "map.png")
    small = [path for path in tiny_base.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    configs = {path.relative_to(tiny_base).as_posix(): path.read_bytes() for path in small}
    monkeypatch.chdir(here)
    with serving("stable-diffusion-v1-5/stable-diffusion-v1-5", configs) as hub:
        use(hub, tmp_path, monkeypatch)
        exec(compile(code.replace('"your prompt"', '"a", num_inference_steps=1'), "card", "exec"), {})
    with Image.open("picture.png") as picture:
        assert picture.size == (64, 64)


@pytest.mark.parametrize("name", ["my_base.safetensors", "old.ckpt"])
def test_a_base_in_one_file_keeps_its_name(name: str) -> None:
    facts = {"base": name, "condition_type": "canny"}
    assert settings("net.safetensors", facts, SD1, CheckpointDetails()).base == name
    code = snippet("net.safetensors", "single_file", name, SD1, CheckpointDetails())
    assert f'BASE = "{name}"' in code and "Pipeline.from_single_file(BASE" in code
    assert "from_pretrained(BASE" in snippet("net.safetensors", "single_file", "owner/name", SD1, CheckpointDetails())


def test_the_card_says_what_else_a_program_needs(scored: Path, tmp_path: Path) -> None:
    made = export(scored, "single_file", tmp_path / "out", "mine")
    assert made.card is not None
    readme = (made.card / "README.md").read_text(encoding="utf-8")
    assert "comfyui_controlnet_aux" in readme and "first node" in readme
    editor, _ = workflows(made.card)
    packs = {node["type"]: node["properties"]["cnr_id"] for node in editor["nodes"]}
    assert packs["CannyEdgePreprocessor"] == "comfyui_controlnet_aux" and packs["KSampler"] == "comfy-core"
    assert "number of heads" in card("a.pth", "pth", {"condition_type": "canny"}, SD2, CheckpointDetails(), [])
    if os.name == "posix":
        (tmp_path / "new").touch()
        assert made.path.stat().st_mode == (tmp_path / "new").stat().st_mode, "other accounts' programs may read it"


def workflows(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    read = lambda name: json.loads((folder / name).read_text(encoding="utf-8"))  # noqa: E731
    return read("comfyui_workflow.json"), read("comfyui_workflow_api.json")


def test_every_link_of_the_workflow_leads_to_a_slot_of_its_kind(scored: Path, tmp_path: Path) -> None:
    editor, server = workflows(export(scored, "single_file", tmp_path / "out", "mine").card)
    nodes = {node["id"]: node for node in editor["nodes"]}
    assert editor["version"] == 0.4 and editor["last_node_id"] == max(nodes) and len(editor["links"]) > 10
    assert editor["last_link_id"] == max(link[0] for link in editor["links"])
    for number, source, output, target, slot, kind in editor["links"]:
        assert nodes[source]["outputs"][output]["type"] == kind == nodes[target]["inputs"][slot]["type"]
        assert number in nodes[source]["outputs"][output]["links"] and nodes[target]["inputs"][slot]["link"] == number
    linked = {node["inputs"][slot]["link"] for node in nodes.values() for slot in range(len(node["inputs"]))}
    assert linked == {link[0] for link in editor["links"]}  # no input hangs loose
    for node in nodes.values():
        assert node["type"] in workflow.CORE or node["type"] in AUX_NODES
        assert server[str(node["id"])]["class_type"] == node["type"]
    for node in server.values():
        for value in node["inputs"].values():
            if isinstance(value, list):
                assert value[1] < len(nodes[int(value[0])]["outputs"])


def test_the_workflow_has_the_runs_own_numbers(scored: Path, tmp_path: Path) -> None:
    made = export(scored, "single_file", tmp_path / "out", "mine")
    editor, server = workflows(made.card)
    of = {node["class_type"]: node["inputs"] for node in server.values()}
    assert of["CLIPSetLastLayer"]["stop_at_clip_layer"] == -2
    assert [server[of["CLIPTextEncode"]["clip"][0]]["class_type"]] == ["CLIPSetLastLayer"]
    assert of["ControlNetLoader"] == {"control_net_name": made.path.name}
    assert of["CannyEdgePreprocessor"].items() >= {"low_threshold": 50, "high_threshold": 150}.items()
    assert of["ControlNetApplyAdvanced"]["strength"] == 1.2
    assert (of["KSampler"]["steps"], of["EmptyLatentImage"]["width"]) == (7, 64)
    sampler = next(node for node in editor["nodes"] if node["type"] == "KSampler")
    assert sampler["widgets_values"] == [0, "fixed", 7, 7.5, "uni_pc", "normal", 1.0]


def test_a_type_without_a_preprocessor_takes_ready_maps(loud_controlnet: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "step-000001", loud_controlnet, condition={"type": "own", "parameters": {}}
    )
    made = export(checkpoint, "single_file", tmp_path / "out", "mine")
    _, server = workflows(made.card)
    image = next(n for n in server.values() if n["class_type"] == "ControlNetApplyAdvanced")["inputs"]["image"]
    assert server[image[0]]["class_type"] == "LoadImage"
    note = (made.card / "automatic1111.txt").read_text(encoding="utf-8")
    assert "preprocessor: none" in note and made.path.stem in note


def test_the_note_names_the_preprocessor(scored: Path, tmp_path: Path) -> None:
    note = (export(scored, "pth", tmp_path / "out", "mine").card / "automatic1111.txt").read_text(encoding="utf-8")
    assert "choose the preprocessor: canny\n" in note and "Control weight 1.2" in note
    assert "similar to those of the training" in note, "maps of an earlier version were made on grey"
    now = {"condition_type": "canny", "condition_parameters": '{"blur": 0.0, "edges": "colour"}'}
    same = automatic1111("a.pth", now, SD1, preprocessor("canny"), CheckpointDetails())
    assert "choose the preprocessor: canny.\n" in same


@pytest.mark.parametrize("kind", [kind.name for kind in registry.all()])
def test_every_type_gets_a_workflow(kind: str) -> None:
    near, parameters = preprocessor(kind), registry.resolve_parameters(kind)
    made = workflow.nodes(workflow.Settings("net.safetensors", "base.safetensors"), near, parameters)
    editor, server = json.loads(json.dumps([workflow.for_editor(made), workflow.for_server(made)]))
    by_class = {node["class_type"]: node["inputs"] for node in server.values()}
    assert by_class["ControlNetLoader"] == {"control_net_name": "net.safetensors"}
    assert by_class["CheckpointLoaderSimple"] == {"ckpt_name": "base.safetensors"}
    image, _ = by_class["ControlNetApplyAdvanced"]["image"]
    assert server[image]["class_type"] == (near.node or "LoadImage")
    assert near.widgets(parameters).items() <= server[image]["inputs"].items()
    assert sorted(node["type"] for node in editor["nodes"]) == sorted(node["class_type"] for node in server.values())


def test_every_type_is_answered_on_purpose() -> None:
    assert {kind.name for kind in registry.all()} == PREPROCESSORS.keys()
    assert preprocessor("of a later version").node == ""


def test_every_preprocessor_node_exists() -> None:
    assert {near.node for near in PREPROCESSORS.values()} - {""} <= AUX_NODES


def test_without_a_run_the_story_is_empty(checkpoint: Path) -> None:
    assert read_details(checkpoint).scores == {} and read_details(checkpoint).pictures == ()


def test_a_folder_in_the_way_of_the_card_is_left_alone(scored: Path, tmp_path: Path) -> None:
    precious = tmp_path / "out" / "mine_sd15_card"
    precious.mkdir(parents=True)
    (precious / "README.md").write_text("my diary", encoding="utf-8")
    with pytest.raises(UserError, match="is in the way"):
        export(scored, "single_file", tmp_path / "out", "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine_sd15_card"]
    assert (precious / "README.md").read_text(encoding="utf-8") == "my diary"


def test_a_disk_that_fills_up_at_the_card_leaves_nothing(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.export.model_card.atomic_write_text", fill)
    for format in ("single_file", "diffusers"):
        with pytest.raises(UserError, match="filled up"):
            export(scored, format, tmp_path / "out", "mine")
    assert not list((tmp_path / "out").iterdir())


def test_a_base_that_reads_the_guidance_gets_it_by_a_node() -> None:
    facts = {"base": "owner/name", "condition_type": "own"}
    server = workflow.for_server(
        workflow.nodes(settings("net.safetensors", facts, FLUX, CheckpointDetails()), preprocessor("own"), {})
    )
    of = {node["class_type"]: node["inputs"] for node in server.values()}
    kind = lambda link: server[link[0]]["class_type"]  # noqa: E731
    assert (of["KSampler"]["cfg"], of["KSampler"]["scheduler"]) == (1.0, "simple")
    assert of["FluxGuidance"]["guidance"] == 3.5 and kind(of["FluxGuidance"]["conditioning"]) == "CLIPTextEncode"
    assert kind(of["ControlNetApplyAdvanced"]["positive"]) == "FluxGuidance"
    assert of["DualCLIPLoader"] == {
        "clip_name1": "clip_l.safetensors",
        "clip_name2": "t5xxl_fp16.safetensors",
        "type": "flux",
    }
    assert {
        node["type"]
        for node in workflow.for_editor(
            workflow.nodes(settings("net.safetensors", facts, FLUX, CheckpointDetails()), preprocessor("own"), {})
        )["nodes"]
    } == of.keys()
    readme = card("net.safetensors", "single_file", facts, FLUX, CheckpointDetails(), [])
    assert "AUTOMATIC1111" not in readme and '"guidance_scale": 3.5' in readme
