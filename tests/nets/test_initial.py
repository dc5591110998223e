"""What a new net begins as: the base's own weights, however roughly the run holds the base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from benchmarks.simulated_card import Counter
from engine.config import RunConfig, parse
from engine.errors import UserError
from engine.families.registry import detect
from engine.nets.controlnet_files import WEIGHTS
from engine.nets.importing import copied_weights
from engine.nets.initial import initial_controlnet
from engine.nets.lora import load_trained, lora_layers, trained_tensors
from tests.families.ldm_file import write_single_file


def sharded(base: Path, folder: Path) -> Path:
    """The same base with its denoiser in two files."""
    shutil.copytree(base, folder)
    (folder / "unet" / WEIGHTS).unlink()
    tensors = load_file(base / "unet" / WEIGHTS)
    halves = {f"part-{half}.safetensors": sorted(tensors)[half::2] for half in (0, 1)}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, folder / "unet" / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["folder", "two files", "single file", "ckpt"])
def test_a_new_controlnet_has_the_weights_of_the_file_although_the_base_is_rounded(
    tiny_base: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = {
        "folder": lambda: tiny_base,
        "two files": lambda: sharded(tiny_base, tmp_path / "sharded"),
        "single file": lambda: write_single_file(tiny_base, tmp_path / "base.safetensors"),
        "ckpt": lambda: write_single_file(tiny_base, tmp_path / "base.ckpt"),
    }
    base = str(make[kind]())
    family = detect(base)
    denoiser = family.load_denoiser(base, torch.bfloat16)
    if kind != "ckpt":
        monkeypatch.setattr(type(family), "load_denoiser", lambda *_: pytest.fail("the base was loaded once more"))
    made = initial_controlnet(tmp_path, RunConfig(), family, base, denoiser).state_dict()
    file = load_file(tiny_base / "unet" / WEIGHTS)
    copied = [name for name in file if name.startswith(family.layers.copied)]
    assert len(copied) > 50 and {name for name in made if name.startswith(family.layers.copied)} == set(copied)
    for name in copied:
        assert made[name].dtype == torch.float32 and torch.equal(made[name], file[name]), name
    assert not torch.equal(denoiser.state_dict()[copied[0]].float(), file[copied[0]]), "bf16 would not have rounded it"


def test_two_text_encoders_add_layers_that_are_copied_too(tiny_sdxl: Path, tmp_path: Path) -> None:
    base = str(tiny_sdxl)
    family = detect(base)
    made = initial_controlnet(tmp_path, RunConfig(), family, base, family.load_denoiser(base, torch.float16))
    file = load_file(tiny_sdxl / "unet" / WEIGHTS)
    assert torch.equal(made.add_embedding.linear_1.weight, file["add_embedding.linear_1.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_of_the_control_image_are_read_as_the_base_reads_its_own(
    tiny_sd3: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    base = str(tiny_sd3)
    family = detect(base)
    denoiser = family.load_denoiser(base, dtype)
    net = initial_controlnet(tmp_path, RunConfig(), family, base, denoiser)
    for name, weight in net.pos_embed_input.proj.named_parameters():
        assert torch.equal(weight, denoiser.get_parameter(f"pos_embed.proj.{name}").float()), name
    plain = initial_controlnet(tmp_path, parse({"model": {"hint_start": "default"}}), family, base, denoiser)
    assert not plain.pos_embed_input.proj.weight.any(), "diffusers' way"
    silent = (net.state_dict()[name] for name in net.state_dict() if name.startswith("controlnet_blocks"))
    assert not any(weight.any() for weight in silent), "at the start the control adds nothing"


def test_a_control_lora_keeps_what_it_trains_whole_exact_and_shares_the_rest(tiny_base: Path, tmp_path: Path) -> None:
    base = str(tiny_base)
    family = detect(base)
    denoiser = family.load_denoiser(base, torch.bfloat16)
    net = initial_controlnet(tmp_path, RunConfig(), family, base, denoiser, rank=4)
    file, frozen, low = load_file(tiny_base / "unet" / WEIGHTS), denoiser.state_dict(), lora_layers(net)
    assert low
    for name, weight in net.state_dict().items():
        stem, _, part = name.rpartition(".")
        if name in file and name.startswith(family.layers.copied):
            shared = stem in low and part == "weight"
            assert torch.equal(weight, frozen[name] if shared else file[name]), name


def test_a_net_that_equals_the_base_spends_no_rank_on_rounding(tiny_base: Path, tmp_path: Path) -> None:
    base = str(tiny_base)
    family = detect(base)
    family.new_controlnet(family.load_denoiser(base, torch.float32)).save_pretrained(tmp_path / "net")
    config = parse({"model": {"controlnet": str(tmp_path / "net")}})
    net = initial_controlnet(tmp_path, config, family, base, family.load_denoiser(base, torch.bfloat16), rank=4)
    assert not any(layer.up.any() for layer in lora_layers(net).values())


def test_weights_are_read_when_they_are_asked_for(tiny_base: Path, tmp_path: Path) -> None:
    path = write_single_file(tiny_base, tmp_path / "base.safetensors")
    weights = copied_weights(detect(str(path)), str(path))
    assert len(weights) == len(list(weights)) and "conv_in.weight" in weights and "conv_out.weight" not in weights
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        dict(weights)


@pytest.mark.parametrize("base", ["tiny_base", "tiny_sdxl", "tiny_sd3", "tiny_zimage"])
def test_a_control_lora_begins_with_the_bits_of_one_that_is_made_from_a_whole_net(
    base: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(request.getfixturevalue(base))
    family = detect(folder)
    denoiser = family.load_denoiser(folder, torch.bfloat16)
    lean = initial_controlnet(tmp_path, RunConfig(), family, folder, denoiser, rank=2)
    monkeypatch.setattr("engine.nets.initial.build_with_meta_weights", lambda make, on_meta: make())
    whole = initial_controlnet(tmp_path, RunConfig(), family, folder, denoiser, rank=2)
    assert lora_layers(lean).keys() == lora_layers(whole).keys() and len(lora_layers(lean)) > 5
    expected = whole.state_dict()
    assert lean.state_dict().keys() == expected.keys()
    for name, weight in lean.state_dict().items():
        assert weight.dtype == expected[name].dtype and torch.equal(weight, expected[name]), name
    for name, layer in lora_layers(lean).items():
        assert layer.weight is lora_layers(whole)[name].weight, f"{name} is the base's own"
    assert torch.nn.Linear(1, 1).weight.device.type == "cpu", "other layers are made as before"


def test_a_control_lora_is_never_in_ram_as_a_whole_net(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced allocations of a made-up base of 20 million weights, new and resumed."""
    family = detect(str(tiny_base))
    config = {**family.denoiser_config(str(tiny_base)), "block_out_channels": [128, 256], "cross_attention_dim": 256}
    denoiser = UNet2DConditionModel.from_config(config).requires_grad_(False)
    monkeypatch.setattr("benchmarks.simulated_card.CARD", torch.device("cpu"))

    def traced(rank: int) -> tuple[Any, int]:
        with Counter() as counter:
            _views = [weight.detach() for weight in denoiser.parameters()]  # it counts what it sees
            before = counter.now
            counter.reset_peak()
            net = initial_controlnet(tmp_path, RunConfig(), family, str(tiny_base), denoiser, rank)
        return net, counter.peak - before

    whole, as_whole = traced(0)
    net, peak = traced(8)
    weights = 4 * sum(weight.numel() for weight in whole.parameters())
    trained = 4 * sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
    largest = 4 * max(weight.numel() for weight in whole.parameters())
    assert weights > 2e7 and weights <= as_whole
    assert trained < weights / 3 and peak < 1.05 * trained + 2 * largest

    whole.save_pretrained(tmp_path / "checkpoint" / "controlnet")
    saved = SimpleNamespace(folder=tmp_path / "checkpoint", resumable=True)
    monkeypatch.setattr("engine.nets.initial.list_checkpoints", lambda folder: [saved])
    resumed, peak = traced(8)
    assert peak < 1.05 * trained + 2 * largest
    assert not any(weight.is_meta for weight in (*resumed.parameters(), *resumed.buffers()))
    load_trained(resumed, trained_tensors(net))
    assert all(torch.equal(weight, net.state_dict()[name]) for name, weight in resumed.state_dict().items())
