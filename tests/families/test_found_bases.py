"""Bases as people find them: variants, shards, cache folders, other programs' files; or refused at the choice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.bases.catalog import hub_id
from engine.cli.advice import for_command_line
from engine.config import RunConfig
from engine.errors import UserError
from engine.families.files import bases_in, denoiser_parameters
from engine.families.parts import file_tensors
from engine.families.registry import describe, detect
from engine.families.weight_files import variant_of, weight_files
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.runner import JobRunner
from engine.nets.importing import read_controlnet
from engine.nets.reading import read_net_file, recognize
from engine.training.job import start_training
from engine.workspace.paths import Workspace
from tests.families.ldm_file import write_header, write_single_file
from ui.page.readiness import about_base

PARTS = ("unet", "vae", "text_encoder")


def rename_weights(base: Path, variant: str) -> None:
    for part in PARTS:
        for path in (base / part).glob("*.safetensors"):
            path.rename(path.with_name(path.name.replace(".safetensors", f".{variant}.safetensors")))


def loads(base: Path, like: Path) -> None:
    """The base loads, and its denoiser has the weights of the other base."""
    family = detect(str(base))
    unet, wanted = (family.load_denoiser(str(one), torch.float32).state_dict() for one in (base, like))
    assert unet.keys() == wanted.keys() and all(torch.equal(unet[name], wanted[name]) for name in unet)
    family.load_vae(str(base))
    family.load_text_encoder(str(base), torch.float32)


def test_a_folder_with_variants_only_is_used(tiny_base: Path, tmp_path: Path, workspace: Workspace) -> None:
    base = tmp_path / "fp16-only"
    shutil.copytree(tiny_base, base)
    rename_weights(base, "fp16")
    loads(base, tiny_base)
    assert denoiser_parameters(workspace, str(base)) == denoiser_parameters(workspace, str(tiny_base))
    ours, theirs = (file_tensors(str(one), "unet", ("conv_in",)) for one in (base, tiny_base))
    assert ours is not None and theirs is not None and ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_plain_files_count_before_variants(tiny_base: Path, tmp_path: Path, workspace: Workspace) -> None:
    base = tmp_path / "both"
    shutil.copytree(tiny_base, base)
    plain = base / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(plain, plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert variant_of(base / "unet") == "" and weight_files(base / "unet") == [plain]
    assert denoiser_parameters(workspace, str(base)) == denoiser_parameters(workspace, str(tiny_base))


def test_a_folder_of_the_hub_cache_is_used(tiny_base: Path, workspace: Workspace) -> None:
    cached = workspace.models / "models--owner--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc\n", encoding="utf-8")
    shutil.copytree(tiny_base, cached / "snapshots" / "abc")
    (cached / "snapshots" / "newer").mkdir()
    located = workspace.locate_base(str(cached))
    assert located.endswith("snapshots/abc") and bases_in(workspace.models) == [str(cached)]
    assert detect(located).name == "sd1"


@pytest.mark.parametrize(
    ("left", "why"),
    [
        ({}, "unet has no weights"),
        ({"model.onnx": b"x"}, "there are ONNX files"),
        ({"diffusion_flax_model.msgpack": b"x"}, "there are Flax files"),
    ],
)
def test_a_folder_without_weights_is_refused_at_the_choice(
    tiny_base: Path, tmp_path: Path, left: dict[str, bytes], why: str
) -> None:
    base = tmp_path / "incomplete"
    shutil.copytree(tiny_base, base)
    for path in (base / "unet").glob("*.safetensors"):
        path.unlink()
    for name, content in left.items():
        (base / "unet" / name).write_bytes(content)
    with pytest.raises(UserError, match="is not complete") as refused:
        detect(str(base))
    assert why in refused.value.why


class Callback:
    """What Lightning saves beside the weights: an object of a class that is not installed elsewhere."""

    def __init__(self) -> None:
        self.best = torch.ones(2)


def test_checkpoints_of_other_programs_are_read(tiny_base: Path, tmp_path: Path) -> None:
    plain = write_single_file(tiny_base, tmp_path / "plain.safetensors")
    tensors = load_file(plain)
    short = "cond_stage_model.transformer."
    novel = {
        name.replace(f"{short}text_model.", short) if name.startswith(short) else name: tensor
        for name, tensor in tensors.items()
    }
    assert novel.keys() != tensors.keys()
    shutil.copytree(tmp_path / "plain", tmp_path / "novel")
    save_file(novel, tmp_path / "novel.safetensors")
    torch.save({"state_dict": novel, "callbacks": {"one": Callback()}, "epoch": 3}, tmp_path / "novel.ckpt")
    family = detect(str(plain))
    wanted = family.load_text_encoder(str(plain), torch.float32).state_dict()
    for other in ("novel.safetensors", "novel.ckpt"):
        got = detect(str(tmp_path / other)).load_text_encoder(str(tmp_path / other), torch.float32).state_dict()
        assert got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("task_embedding", "control_add_embedding.linear_1.weight", "controlnet_cond_embedding.conv_in.weight"),
            "Union",
        ),
        (("lllite_unet_input_blocks_4_1.down.0.weight",), "LLLite"),
    ],
)
def test_nets_of_other_kinds_are_named(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError) as refused:
        recognize(names, "net.safetensors")
    assert words in refused.value.why


def test_a_net_without_attention_is_named(loud_controlnet: Path, tiny_base: Path, tmp_path: Path) -> None:
    whole = read_net_file(loud_controlnet).tensors
    save_file({n: t for n, t in whole.items() if "attn" not in n}, tmp_path / "small.safetensors")
    with pytest.raises(UserError, match="no attention layers|cannot be used") as refused:
        read_controlnet(tmp_path / "small.safetensors", detect(str(tiny_base)), str(tiny_base))
    assert "no prompt" in refused.value.why


def test_a_base_in_shards_is_used(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "shards"
    shutil.copytree(tiny_base, base)
    folder = base / "unet"
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    names = sorted(tensors)
    parts = {"00001": names[: len(names) // 2], "00002": names[len(names) // 2 :]}
    places = {}
    for number, held in parts.items():
        file = f"diffusion_pytorch_model-{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(held, file)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    loads(base, tiny_base)
    assert len(weight_files(folder)) == 2


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2132696762\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.safetensors", b"", "The file is empty"),
        ("a.safetensors", b"<!DOCTYPE html><html>Please log in</html>", "It is a web page"),
        ("a.safetensors", LFS, "Git LFS pointer"),
        ("a.ckpt", LFS, "Git LFS pointer"),
        ("a.safetensors", b"GGUF" + bytes(100), "GGUF"),
        ("a.safetensors", b"PK\x03\x04" + bytes(100), "an archive or a .ckpt under another name"),
        ("a.safetensors", b"\xff" * 100, "it does not begin like one"),
        ("a.safetensors", (40).to_bytes(8, "little") + b'{"a": {}}', "The end of the file is missing"),
        ("a.safetensors.crdownload", b"x", "an unfinished download"),
        ("a.gguf", b"GGUF", "one of .safetensors"),
        ("A.SAFETENSORS", b"x", "rename it to A.safetensors"),
    ],
)
def test_a_file_that_holds_no_weights_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        detect(str(tmp_path / name))
    assert words in refused.value.why and "Error" not in refused.value.why


def test_half_of_a_file_is_known_by_its_header(tiny_base: Path, tmp_path: Path) -> None:
    path = write_single_file(tiny_base, tmp_path / "a.safetensors")
    detect(str(path))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="(?s)cannot be read.*end of the file is missing"):
        detect(str(path))


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        (
            "unet/diffusion_pytorch_model.safetensors",
            LFS,
            "unet/diffusion_pytorch_model.safetensors: It is a Git LFS pointer",
        ),
        ("vae/diffusion_pytorch_model.safetensors", b"", "vae/diffusion_pytorch_model.safetensors: The file is empty."),
        ("text_encoder/model.safetensors", b"<html>", "text_encoder/model.safetensors: It is a web page"),
        ("model_index.json", b"[]", "does not list its parts"),
        ("tokenizer", None, "It has no folder tokenizer."),
    ],
)
def test_a_folder_whose_files_hold_no_weights_is_refused_at_the_choice(
    tiny_base: Path, tmp_path: Path, file: str, content: bytes | None, why: str
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    if content is None:
        shutil.rmtree(base / file)
    else:
        (base / file).write_bytes(content)
    with pytest.raises(UserError) as refused:
        detect(str(base))
    assert why in refused.value.why


def test_a_folder_beside_above_or_inside_a_base_says_what_to_choose(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "above" / "base")
    (tmp_path / "files").mkdir()
    write_single_file(tiny_base, tmp_path / "files" / "a.safetensors")
    (tmp_path / "empty").mkdir()
    for folder, words in (
        ("above", str(tmp_path / "above" / "base")),
        ("above/base/unet", str(tmp_path / "above" / "base")),
        ("files", str(tmp_path / "files" / "a.safetensors")),
        ("empty", "Choose such a folder"),
    ):
        with pytest.raises(UserError, match="is not a base model") as refused:
            detect(str(tmp_path / folder))
        assert words in refused.value.try_this


@pytest.mark.parametrize(
    ("part", "entry", "value", "why"),
    [
        (
            "unet",
            "block_out_channels",
            [32, 64],
            "has the shape 16 x 4 x 3 x 3 instead of 32 x 4 x 3 x 3",
        ),
        ("unet", "layers_per_block", 2, "The weights of its unet do not match"),
        ("text_encoder", "num_hidden_layers", 7, "The weights of its text_encoder are not complete"),
    ],
)
def test_weights_of_another_config_are_refused_at_the_choice(
    tiny_base: Path, tmp_path: Path, part: str, entry: str, value: object, why: str
) -> None:
    base = tmp_path / "mixed"
    shutil.copytree(tiny_base, base)
    config = base / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {entry: value}), "utf-8")
    with pytest.raises(UserError, match="is not complete") as refused:
        detect(str(base))
    assert why in refused.value.why


def test_a_file_that_is_not_complete_is_refused_at_the_choice(tiny_base: Path, tmp_path: Path) -> None:
    tensors = load_file(write_single_file(tiny_base, tmp_path / "whole.safetensors"))
    for name, left_out, why in (
        ("no-vae", "first_stage_model.", "it has no VAE"),
        ("no-text", "cond_stage_model.", "it has no text encoder"),
    ):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        file = tmp_path / f"{name}.safetensors"
        save_file({key: tensor for key, tensor in tensors.items() if left_out not in key}, file)
        with pytest.raises(UserError) as refused:
            detect(str(file))
        assert why in refused.value.why, name
    (tmp_path / "renamed.ckpt").write_bytes((tmp_path / "whole.safetensors").read_bytes())
    with pytest.raises(UserError) as refused:
        detect(str(tmp_path / "renamed.ckpt"))
    assert "rename it to renamed.safetensors" in refused.value.why


def test_a_missing_shard_is_named_at_the_choice(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "shards"
    shutil.copytree(tiny_base, base)
    unet = base / "unet" / "diffusion_pytorch_model.safetensors"
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {name: names[number % 2] for number, name in enumerate(load_file(unet))}}
    unet.rename(unet.with_name(names[0]))
    for listed in (True, False):
        note = unet.with_name(unet.name + ".index.json")
        note.write_text(json.dumps(index), "utf-8") if listed else note.unlink()
        with pytest.raises(UserError) as refused:
            detect(str(base))
        assert f"unet/{names[1]}: It is missing" in refused.value.why


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("https://huggingface.co/owner/name", "owner/name"),
        ("huggingface.co/owner/name/tree/main/unet", "owner/name"),
        (" http://hf.co/owner/na.me?not-for-all-audiences=true", "owner/na.me"),
        ("git@hf.co:owner/name.git", "owner/name"),
        ("https://huggingface.co/owner/name/blob/main/a.safetensors", "single file of owner/name"),
        ("https://huggingface.co/datasets/owner/name", "a dataset on the hub"),
        ("https://huggingface.co/spaces/owner/name", "a space on the hub"),
        ("https://civitai.com/models/1", "a web page or file"),
    ],
)
def test_an_address_on_the_hub_is_its_id_or_named(workspace: Workspace, typed: str, found: str) -> None:
    if "/" in found and " " not in found:
        assert workspace.locate_base(typed) == hub_id(typed) == found
        return
    with pytest.raises(UserError) as refused:
        workspace.locate_base(typed)
    assert found in refused.value.why


@pytest.mark.parametrize("tensor", ["joint_blocks.0.x_block.attn.qkv.weight", "double_blocks.0.img_attn.qkv.weight",
                                    "cap_embedder.0.weight"])  # fmt: skip
def test_a_transformer_in_one_file_is_refused_with_the_way_to_its_folder_on_every_path(
    tensor: str,
    tmp_path: Path,
    ready_workspace: Workspace,
    make_config: Callable[..., RunConfig],
    loud_controlnet: Path,
    blank: Image.Image,
) -> None:
    file = write_header(tmp_path / "transformer.safetensors", {f"model.diffusion_model.{tensor}": (4, 4)})
    config = make_config(**{"model.base": file})
    request = TryRequest(base=file, controlnet=loud_controlnet, control=blank, prompt="")
    ways: tuple[Callable[[], object], ...] = (
        lambda: detect(file),
        lambda: describe(file),
        lambda: about_base(ready_workspace, config),
        lambda: start_training(JobRunner(), ready_workspace, config, {}),
        lambda: TrySession(ready_workspace).generate([request]),
    )
    for way in ways:
        with pytest.raises(UserError) as refused:
            way()
        assert "Choose the base's folder in diffusers layout" in refused.value.try_this
    assert "bases get" in for_command_line(refused.value.try_this)
    assert list(ready_workspace.run_folders()) == []
