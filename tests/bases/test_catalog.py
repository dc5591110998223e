"""The list of bases on offer, and which files of a repository are wanted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.bases.catalog import catalog_bases, hub_id, is_complete
from engine.bases.wanted import wanted_files
from engine.cli.main import main
from engine.config.presets import all_presets
from engine.errors import UserError
from engine.families.facts import FACTS
from engine.workspace.paths import Workspace

PLAIN = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


def test_the_shipped_list_has_a_base_of_each_family_and_its_cards_have_presets() -> None:
    bases = catalog_bases()
    assert {base.family for base in bases} == {facts.name for facts in FACTS}
    assert len({base.id for base in bases}) == len(bases)
    assert {base.min_vram_gib for base in bases} <= {preset.min_vram_gib for preset in all_presets()}
    for base in (base for base in bases if base.family in ("flux", "sd3", "zimage")):
        with_settings = [preset.min_vram_gib for preset in all_presets() if base.family in preset.families]
        assert base.min_vram_gib == min(gib for gib in with_settings if gib), base.name
    for base in bases:
        assert base.use.endswith(".") and base.licence_means.endswith("."), base.name


def test_a_base_is_named_by_the_list_or_by_its_id() -> None:
    assert hub_id("SD15") == hub_id("Stable Diffusion 1.5") == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert hub_id("https://huggingface.co/anna/other/") == "anna/other"
    with pytest.raises(UserError, match=r"no base called sd4.*sd15, "):
        hub_id("sd4")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = 1", "a is not a section"),
        ("[a]\ntitle = 'A'", "exactly these entries"),
        ("[a", "not valid TOML"),
    ],
)
def test_a_wrong_list_is_an_error_that_names_the_entry(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bases.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        catalog_bases(path)


def test_the_command_lists_them_without_a_connection(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(workspace.root / "hub"))
    snapshot = workspace.root / "hub/models--stabilityai--stable-diffusion-xl-base-1.0/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(tiny_base)
    (workspace.partial_base("Lykon/dreamshaper-8") / "unet").mkdir(parents=True)
    assert main(["--workspace", str(workspace.root), "bases", "list"]) == 0
    said = capsys.readouterr().out
    assert "Stable Diffusion 1.5: not downloaded" in said
    assert "Stable Diffusion XL 1.0: downloaded" in said and str(snapshot) in said
    assert "DreamShaper 8: partly downloaded: 0 B of about 2.0 GB" in said
    assert "CreativeML Open RAIL-M" in said


def test_a_folder_without_the_weights_of_a_part_is_not_complete(tmp_path: Path, tiny_base: Path) -> None:
    assert is_complete(tiny_base)
    for path in tiny_base.rglob("*.json"):
        copy = tmp_path / path.relative_to(tiny_base)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    assert not is_complete(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({}), encoding="utf-8")
    assert not is_complete(tmp_path)


def test_a_folder_without_one_of_its_shards_is_not_complete(tmp_path: Path, tiny_base: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    first, second = (weights.with_name(f"diffusion_pytorch_model-0000{n}-of-00002.safetensors") for n in (1, 2))
    weights.rename(first)
    assert not is_complete(folder)
    second.write_bytes(first.read_bytes())
    assert is_complete(folder)


def test_half_precision_is_taken_part_by_part_where_it_is_there() -> None:
    files = [*PLAIN, "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.fp16.bin"]
    got = wanted_files("a/b", files)
    assert [name for name in got if name.startswith("unet/")] == [
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert "vae/diffusion_pytorch_model.safetensors" in got
    assert got[-1] == "model_index.json", "a folder with an index is taken for a base"


def test_shards_come_with_the_index_of_their_own_variant() -> None:
    shards = [f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    half = [f"unet/diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    index_half = "unet/diffusion_pytorch_model.safetensors.index.fp16.json"
    plain = [name for name in PLAIN if name != "unet/diffusion_pytorch_model.safetensors"]
    got = wanted_files("a/b", [*plain, *shards, index])
    assert {*shards, index} <= set(got)
    got = wanted_files("a/b", [*plain, *shards, index, *half, index_half])
    assert {*half, index_half} <= set(got) and not {*shards, index} & set(got)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["model.safetensors"], "not a base in diffusers layout, only a single file"),
        (["unet/diffusion_pytorch_model.bin", "model_index.json"], "no safetensors weights"),
        ([name for name in PLAIN if not name.startswith("vae/")], "no VAE"),
        ([name for name in PLAIN if not name.startswith("unet/")], "no denoiser"),
    ],
)
def test_a_repository_that_is_no_base_is_refused(files: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        wanted_files("a/b", files)
