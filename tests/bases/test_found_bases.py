"""Bases of other programs, found in trees as these programs make them."""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.bases import usual_places
from engine.bases.found_bases import FoundBase, Search, find_everywhere, find_in
from engine.bases.usual_places import Place, named_folders, program_of, search_roots
from engine.cli.main import main
from engine.errors import UserError
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import DEMO_BASE, Workspace

UNET = "model.diffusion_model."
SD1 = {
    f"{UNET}input_blocks.0.0.weight": [320, 4, 3, 3],
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": [320, 768],
    "first_stage_model.encoder.conv_in.weight": [128, 3, 3, 3],
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": [49408, 768],
}
SDXL = {name: [shape[0], 2048] if "to_k" in name else shape for name, shape in SD1.items()} | {
    f"{UNET}label_emb.0.0.weight": [1280, 2816]
}
INPAINTING = SD1 | {f"{UNET}input_blocks.0.0.weight": [320, 9, 3, 3]}
LORA = {"lora_unet_down_blocks_0_attentions_0.lora_up.weight": [320, 8]}


def header_only(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A safetensors file of which the weights were cut off: whoever reads more than the header fails."""
    entries = {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    header = json.dumps(entries).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def large_file(path: Path, size: int) -> Path:
    """A file of zeros that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home folder, the only place where programs are looked for, and an empty Hugging Face cache."""
    from huggingface_hub import constants

    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / ".cache/huggingface/hub"))
    monkeypatch.setattr(usual_places, "search_roots", lambda: [folder])
    yield folder


@pytest.fixture
def sd1_folder(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base, whose config says that it reads text of Stable Diffusion 1's width, by which it is recognized."""
    folder = tmp_path / "sd1-folder"
    shutil.copytree(tiny_base, folder)
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"cross_attention_dim": 768}
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def by_name(search: Search) -> dict[str, tuple[str, str]]:
    return {base.name: (base.family, base.whose) for base in search.bases}


def test_the_bases_of_all_programs_are_found_by_family(workspace: Workspace, home: Path, sd1_folder: Path) -> None:
    header_only(home / "ComfyUI/models/checkpoints/xl/comfy.safetensors", SDXL)
    header_only(home / "ComfyUI/models/loras/not-looked-at.safetensors", LORA)
    header_only(home / "AI/ComfyUI_windows_portable/ComfyUI/models/checkpoints/portable.safetensors", SD1)
    header_only(home / "AI/stable-diffusion-webui/models/Stable-diffusion/a1111.safetensors", SD1)
    header_only(home / "webui_forge_cu121/webui/models/Stable-diffusion/forge.safetensors", SDXL)
    header_only(home / "stable-diffusion-webui-forge/models/Stable-diffusion/forge2.safetensors", SD1)
    header_only(home / "invokeai/models/sd-1/main/invoke.safetensors", SD1)
    header_only(home / "StabilityMatrix/Data/Models/StableDiffusion/matrix.safetensors", SD1)
    header_only(home / "Fooocus_win64/Fooocus/models/checkpoints/fooocus.safetensors", SDXL)
    header_only(home / "kohya_ss/models/kohya.safetensors", SD1)
    header_only(workspace.models / "own.safetensors", SD1)
    snapshot = home / ".cache/huggingface/hub/models--anna--tiny/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(sd1_folder)
    search = find_everywhere(workspace)
    assert search.ended == "complete" and search.others == {}
    assert by_name(search) == {
        "own.safetensors": ("sd1", "this app"),
        "anna/tiny": ("sd1", "Hugging Face cache"),
        "comfy.safetensors": ("sdxl", "ComfyUI"),
        "portable.safetensors": ("sd1", "ComfyUI"),
        "a1111.safetensors": ("sd1", "AUTOMATIC1111"),
        "forge.safetensors": ("sdxl", "Forge"),
        "forge2.safetensors": ("sd1", "Forge"),
        "invoke.safetensors": ("sd1", "InvokeAI"),
        "matrix.safetensors": ("sd1", "Stability Matrix"),
        "fooocus.safetensors": ("sdxl", "Fooocus"),
        "kohya.safetensors": ("sd1", "kohya"),
    }
    families = search.by_family()
    assert list(families) == ["sd1", "sdxl"]
    assert [base.name for base in families["sdxl"]] == ["comfy.safetensors", "fooocus.safetensors", "forge.safetensors"]


def test_a_found_base_is_used_where_it_is(
    workspace: Workspace, home: Path, sd1_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.families import registry

    monkeypatch.setattr(registry, "misfit", lambda *given: "")  # its configs are those of a large base

    folder = home / "ComfyUI/models/diffusers/mine"
    shutil.copytree(sd1_folder, folder)
    before = sorted(path for path in home.rglob("*"))
    (base,) = find_everywhere(workspace).bases
    assert workspace.locate_base(str(base.path)) == str(folder) and base.bytes > 100_000
    assert registry.detect(str(base.path)).facts.name == base.family
    assert sorted(path for path in home.rglob("*")) == before and not list(workspace.models.iterdir())


def test_the_demo_base_has_sizes_of_its_own_and_is_listed(workspace: Workspace, home: Path) -> None:
    assert by_name(find_in(workspace, DEMO_BASE.parent)) == {"base": ("", "your folder")}


def test_what_is_no_base_is_counted_and_left_out(workspace: Workspace, home: Path, sd1_folder: Path) -> None:
    folder = home / "mixed"
    header_only(folder / "good.safetensors", SD1)
    header_only(folder / "detail.safetensors", LORA)
    header_only(folder / "inpaint.safetensors", INPAINTING)
    (folder / "cut.safetensors").write_bytes(b"\xff" * 20)
    large_file(folder / "old.ckpt", 600_000_000)
    large_file(folder / "vae.ckpt", 1_000)
    shutil.copytree(sd1_folder, folder / "half", ignore=shutil.ignore_patterns("*.safetensors"))
    header_only(folder / ".trash/deleted.safetensors", SD1)
    header_only(folder / "venv/lib/x.safetensors", SD1)
    search = find_in(workspace, folder)
    assert by_name(search) == {"good.safetensors": ("sd1", "your folder"), "old.ckpt": ("", "your folder")}
    assert search.others == {
        "a LoRA": 1,
        "a base for inpainting or a similar task": 1,
        "unreadable files": 1,
        "incomplete bases": 1,
    }


def test_a_folder_that_links_into_another_is_listed_once(workspace: Workspace, home: Path) -> None:
    header_only(home / "ComfyUI/models/checkpoints/one.safetensors", SD1)
    linked = home / "Fooocus/models/checkpoints"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(home / "ComfyUI/models/checkpoints")
    (home / "ComfyUI/models/checkpoints/round").symlink_to(home / "ComfyUI/models/checkpoints")
    assert by_name(find_everywhere(workspace)) == {"one.safetensors": ("sd1", "ComfyUI")}


def test_comfyuis_own_list_of_folders_is_followed(workspace: Workspace, home: Path) -> None:
    header_only(home / "shared/sd/one.safetensors", SD1)
    header_only(home / "shared/more/two.safetensors", SDXL)
    (home / "ComfyUI").mkdir()
    listed = f"a111:\n  base_path: {home}/shared\n  checkpoints: |\n    sd\n    more\n  loras: loras\n"
    (home / "ComfyUI/extra_model_paths.yaml").write_text(listed, encoding="utf-8")
    assert set(by_name(find_everywhere(workspace))) == {"one.safetensors", "two.safetensors"}
    (home / "ComfyUI/extra_model_paths.yaml").write_text("a: [1, {", encoding="utf-8")
    assert find_everywhere(workspace).bases == []


def test_a_named_folder_is_remembered_and_may_disappear(
    workspace: Workspace, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "mine"
    header_only(folder / "one.safetensors", SD1)

    def bases(*words: str) -> str:
        assert main(["--workspace", str(workspace.root), "bases", "find", *words]) == 0
        return capsys.readouterr().out

    assert str(folder / "one.safetensors") in bases(str(folder)) and named_folders(workspace) == [folder]
    assert "one.safetensors (your folder" in bases()
    shutil.rmtree(folder)
    said = bases()
    assert f"{folder} was not found" in said and "No base was found" in said
    bases(str(folder), "--forget")
    assert named_folders(workspace) == [] and "was not found" not in bases()
    with pytest.raises(UserError, match="is not a folder"):
        find_in(workspace, folder)


def test_a_disk_that_does_not_answer_ends_the_search_in_time(
    workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.bases import found_bases

    header_only(home / "ComfyUI/models/checkpoints/one.safetensors", SD1)
    release = threading.Event()

    def places(workspace: Workspace, check: object) -> Iterator[Place]:
        yield Place(home / "ComfyUI/models/checkpoints", "ComfyUI")
        release.wait(10)

    monkeypatch.setattr(found_bases, "usual_places", places)
    try:
        search = find_everywhere(workspace, seconds=0.1)
        assert search.ended == "time is up" and by_name(search) == {"one.safetensors": ("sd1", "ComfyUI")}
        control = Control()
        control.cancel()
        with pytest.raises(Cancelled):
            find_everywhere(workspace, control.token)
    finally:
        release.set()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that may not be read")
def test_a_folder_of_somebody_else_is_passed_over(workspace: Workspace, home: Path) -> None:
    header_only(home / "all/secret/one.safetensors", SD1)
    (home / "all/secret").chmod(0)
    try:
        assert find_in(workspace, home / "all").bases == []
    finally:
        (home / "all/secret").chmod(0o700)


def test_programs_are_told_by_their_folders_names() -> None:
    names = {
        "ComfyUI": "ComfyUI",
        "stable-diffusion-webui": "AUTOMATIC1111",
        "sd.webui": "AUTOMATIC1111",
        "stable-diffusion-webui-forge": "Forge",
        "kohya_ss": "kohya",
        "pictures": None,
    }
    assert {name: program.title if (program := program_of(name)) else None for name in names} == names


def test_home_and_other_disks_are_looked_into(tmp_path: Path) -> None:
    roots = search_roots({"APPDATA": str(tmp_path / "roaming")}, tmp_path)
    assert roots[0] == tmp_path and {tmp_path / "Documents", tmp_path / "roaming"} <= set(roots)


def test_the_name_of_a_cached_base_is_its_id() -> None:
    path = Path("/x/hub/models--anna--my--net/snapshots/abc")
    assert FoundBase(path, "sd1", "", 0).name == "anna/my--net"
