"""Bases with a transformer that lack a part, or have one of another base: refused when they are chosen, with words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.families.registry import detect
from engine.workspace.paths import DEMO_BASE, Workspace
from tests.bases.hub import serving, use

GATED = "owner/gated-base"


def changed(base: Path, folder: Path, **parts: Any) -> str:
    """A copy of a base whose model_index.json lists these parts so."""
    shutil.copytree(base, folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text(encoding="utf-8")) | parts), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("base", "part"),
    [
        ("tiny_flux", "text_encoder_2"),  # T5
        ("tiny_flux", "tokenizer"),
        ("tiny_zimage", "text_encoder"),
        ("tiny_sd3", "tokenizer_3"),  # of a T5 that is there
    ],
)
def test_a_text_encoder_or_tokenizer_that_was_left_out_is_named(
    base: str, part: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole = request.getfixturevalue(base)
    detect(str(whole))
    without = changed(whole, tmp_path / "base", **{part: [None, None]})
    with pytest.raises(UserError, match=f"comes without {part}, and captions"):
        detect(without)
    shutil.rmtree(tmp_path / "base" / part)
    shutil.copyfile(whole / "model_index.json", tmp_path / "base" / "model_index.json")
    with pytest.raises(UserError, match=f"not complete.*{part}"):
        detect(without)


@pytest.mark.parametrize("base", ["tiny_flux", "tiny_zimage", "tiny_sd3"])
def test_a_vae_of_another_base_is_named(base: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Control images would be latents of another kind than those that the net reads."""
    mixed = changed(request.getfixturevalue(base), tmp_path / "base")
    shutil.rmtree(tmp_path / "base" / "vae")
    shutil.copytree(DEMO_BASE / "vae", tmp_path / "base" / "vae")
    with pytest.raises(UserError, match="VAE makes latents of 4 channels, and its transformer reads 16"):
        detect(mixed)


def test_a_vae_of_another_base_with_as_many_channels_is_told_by_its_scale(
    tiny_flux: Path, tiny_zimage: Path, tiny_sd3: Path, tmp_path: Path
) -> None:
    others = (tiny_sd3, tiny_flux, "one of FLUX.1: .* 0.3611"), (tiny_zimage, tiny_sd3, "Diffusion 3: .* 1.5305")
    for number, (base, vae, words) in enumerate(others):
        mixed = changed(base, tmp_path / str(number))
        shutil.copy(vae / "vae" / "config.json", Path(mixed) / "vae" / "config.json")
        with pytest.raises(UserError, match=words):
            detect(mixed)
    same = changed(tiny_zimage, tmp_path / "same")
    shutil.copy(tiny_flux / "vae" / "config.json", Path(same) / "vae" / "config.json")
    detect(same)


def test_a_gated_base_without_a_token_says_where_to_accept_its_terms(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(GATED, {"model_index.json": b"{}"}) as hub:
        hub.refuse[""] = (401, {"X-Error-Code": "GatedRepo"})
        use(hub, tmp_path, monkeypatch)
        with pytest.raises(UserError, match="terms") as refused:
            detect(workspace.locate_base(GATED))
    assert "hf auth login" in refused.value.try_this


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damage", "why", "choose"),
    [
        (lambda base: [path.unlink() for path in (base / "tokenizer").iterdir()], "has no vocabulary", "again"),
        (
            lambda base: cut(base / "tokenizer" / "tokenizer.json"),
            "tokenizer.json: It is not a complete JSON file",
            "again",
        ),
        (
            lambda base: (base / "tokenizer" / "tokenizer.json").write_text("version https://git-lfs.github.com/spec"),
            "tokenizer.json: It is a Git LFS pointer",
            "again",
        ),
        (lambda base: (base / "unet" / "config.json").write_text("[1]"), "its config.json holds no settings", "folder"),
        (lambda base: (base / "unet" / "config.json").write_text('"unet"'), "holds no settings", "folder"),
    ],
)
def test_what_would_fail_only_at_start_is_told_at_the_choice(
    damage: Any, why: str, choose: str, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(DEMO_BASE, base)
    damage(base)
    with pytest.raises(UserError) as refused:
        detect(str(base))
    assert why in refused.value.why and choose in refused.value.try_this


def test_a_part_of_a_base_is_refused_with_the_folder_to_choose(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(DEMO_BASE, base)
    for part in ("unet", "unet/diffusion_pytorch_model.safetensors", "model_index.json"):
        with pytest.raises(UserError) as refused:
            detect(str(base / part))
        assert refused.value.try_this == f"Choose the folder {base}."
    shutil.move(base / "unet", tmp_path / "alone")
    with pytest.raises(UserError, match="a single part of a model: UNet2DConditionModel"):
        detect(str(tmp_path / "alone"))
