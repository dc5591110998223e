"""Into the folders of other programs: recognized, never overwritten unasked, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import UserError
from engine.export.deliver import (
    PROGRAMS,
    Program,
    copy_to,
    folder_of_kind,
    models_folder,
    next_step,
    opening_command,
    program,
)
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace
from engine.workspace.remembered import remember, remembered

COMFY, A1111 = program("comfyui"), program("a1111")


def folders(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture
def net(tmp_path: Path) -> Path:
    file = tmp_path / "exports" / "mine_sd15.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"numbers" * 1000)
    return file


def test_comfyui_is_known_by_its_folders(tmp_path: Path) -> None:
    root = folders(tmp_path / "ComfyUI", "comfy", "models/controlnet")
    assert models_folder(root, COMFY) == root / "models" / "controlnet"
    assert models_folder(root / "models" / "controlnet", COMFY) == root / "models" / "controlnet"
    assert models_folder(tmp_path, COMFY) == root / "models" / "controlnet"  # the portable package's outer folder


@pytest.mark.parametrize("place", ["extensions/sd-webui-controlnet/models", "models/ControlNet"])
def test_automatic1111_is_known_by_its_folders(tmp_path: Path, place: str) -> None:
    root = folders(tmp_path / "a", place)
    (root / "webui.py").touch()
    assert models_folder(root, A1111) == root / place


def test_a_new_webui_gets_its_folder(tmp_path: Path) -> None:
    (tmp_path / "webui.py").touch()
    assert models_folder(tmp_path, A1111) == tmp_path / "models" / "ControlNet"


@pytest.mark.parametrize("wanted", [COMFY, A1111])
def test_another_folder_is_refused(tmp_path: Path, wanted) -> None:
    with pytest.raises(UserError, match="does not look like"):
        models_folder(tmp_path, wanted)
    for nothing in ("", tmp_path / "gone"):
        with pytest.raises(UserError, match="was not found"):
            models_folder(nothing, wanted)


@pytest.mark.parametrize(
    "place",
    [
        "Data/Models/ControlNet",
        "Data/Models/controlnet",
        "Models/controlnet",
        "Models/ControlNet",
        "SwarmUI/Models/controlnet",
    ],
)
@pytest.mark.parametrize("wanted", PROGRAMS, ids=lambda one: one.name)
def test_folders_that_programs_share_are_known(tmp_path: Path, place: str, wanted: Program) -> None:
    there = tmp_path / "shell" / place
    there.mkdir(parents=True)
    assert models_folder(tmp_path / "shell", wanted) == there
    assert models_folder(f'"{there}"', wanted) == there


@pytest.mark.parametrize(
    ("there", "place"),
    [
        (("invokeai.yaml", "models/sd-1/controlnet"), "autoimport/controlnet"),
        (("databases/invokeai.db", "autoimport/controlnet"), "autoimport/controlnet"),
        (("Models/Stable-Diffusion", "src/Core"), "Models/controlnet"),
        (("custom_nodes", "models/checkpoints"), "models/controlnet"),
        (("ComfyUI_windows_portable/ComfyUI/comfy",), "ComfyUI_windows_portable/ComfyUI/models/controlnet"),
        (("app/comfy", "app/models/controlnet", "pinokio.js"), "app/models/controlnet"),
        (("server/ComfyUI/comfy",), "server/ComfyUI/models/controlnet"),
    ],
)
def test_shells_and_programs_without_such_a_folder_yet(tmp_path: Path, there: tuple[str, ...], place: str) -> None:
    folders(tmp_path, *there)
    found = models_folder(tmp_path, COMFY)
    assert found == tmp_path / place
    copied = found / "a.safetensors"
    assert next_step(copied, COMFY) == (
        f"In InvokeAI, choose Model Manager, Add models, Scan folder, and give it {found}."
        if "autoimport" in place
        else "In ComfyUI, refresh the list of models."
    )


def test_one_program_is_not_the_other(tmp_path: Path) -> None:
    comfy = folders(tmp_path / "c", "comfy", "models/controlnet")
    with pytest.raises(UserError, match="does not look like AUTOMATIC1111"):
        models_folder(comfy, A1111)


def test_a_copy_is_whole_and_never_overwrites_unasked(net: Path, tmp_path: Path) -> None:
    there = tmp_path / "models"
    copied = copy_to(net, there)
    assert copied.read_bytes() == net.read_bytes() and [p.name for p in there.iterdir()] == [net.name]
    net.write_bytes(b"newer")
    with pytest.raises(UserError, match="already exists there"):
        copy_to(net, there)
    assert copied.read_bytes() != b"newer"
    assert copy_to(net, there, overwrite=True).read_bytes() == b"newer"


def test_a_folder_for_diffusers_is_not_copied_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="load single files"):
        copy_to(tmp_path, tmp_path / "models")


def test_a_full_disk_or_a_cancel_leaves_nothing(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        copy_to(net, tmp_path / "models", token=control.token)
    assert not list((tmp_path / "models").iterdir())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(UserError, match="disk of that folder is full"):
        copy_to(net, tmp_path / "models")
    monkeypatch.undo()

    def fill(*_: object) -> None:
        (tmp_path / "models" / f".copying-{net.name}").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.export.deliver.copy_into", fill)
    with pytest.raises(UserError, match="was not copied"):
        copy_to(net, tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_each_system_has_its_way_to_show_a_folder(tmp_path: Path) -> None:
    assert opening_command(tmp_path, "linux") == ["xdg-open", str(tmp_path)]
    assert opening_command(tmp_path, "darwin") == ["open", str(tmp_path)]
    assert opening_command(tmp_path, "win32") is None


def test_folders_are_remembered_and_a_token_cannot_be(workspace: Workspace) -> None:
    assert remembered(workspace) == {}
    remember(workspace, comfyui="/programs/ComfyUI")
    remember(workspace, a1111="C:\\webui")
    assert remembered(workspace) == {"comfyui": "/programs/ComfyUI", "a1111": "C:\\webui"}
    with pytest.raises(AssertionError):
        remember(workspace, token="hf_secret")
    (workspace.root / "remembered.json").write_text(json.dumps(["odd"]), encoding="utf-8")
    assert remembered(workspace) == {}


@pytest.mark.parametrize(
    ("tensor", "comfy", "a1111"),
    [
        ("lora_unet_conv_in.lora_down.weight", "models/loras", "models/Lora"),
        ("emb_params", "models/embeddings", "embeddings"),
        ("model.diffusion_model.out.2.weight", "models/checkpoints", "models/Stable-diffusion"),
        ("controlnet_mid_block.weight", "models/controlnet", "extensions/sd-webui-controlnet/models"),
    ],
)
def test_each_kind_of_file_goes_to_its_own_folder(tmp_path: Path, tensor: str, comfy: str, a1111: str) -> None:
    save_file({tensor: torch.zeros(1)}, tmp_path / "mine_sd15.safetensors")
    file = tmp_path / "mine_sd15.safetensors"
    ours = folders(tmp_path / "ComfyUI", "comfy", "models/controlnet", "models/loras")
    theirs = folders(tmp_path / "webui", "extensions/sd-webui-controlnet/models", "models/Stable-diffusion")
    assert folder_of_kind(models_folder(ours, COMFY), file) == ours / comfy
    assert folder_of_kind(models_folder(theirs, A1111), file) == theirs / a1111
