"""The way in: every format comes back bit for bit, starts a training, draws; anything else is refused with a reason."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.export import export
from engine.export.formats import FORMATS
from engine.families.registry import detect
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.nets.importing import open_controlnet, read_controlnet, store
from engine.nets.reading import read_net_file
from engine.workspace.paths import Workspace

WEIGHTS = "diffusion_pytorch_model.safetensors"
EXACT = [format.name for format in FORMATS if not (format.ranks or format.holds_base)]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("format", EXACT)
def test_there_and_back_is_the_same_bit_for_bit(
    checkpoint: Path, tiny_base: Path, tmp_path: Path, format: str, precision: Any
) -> None:
    made = export(checkpoint, format, tmp_path / "out", "mine", precision, "plain").path
    found = read_controlnet(made, detect(str(tiny_base)), str(tiny_base))
    assert found.format == format
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    original = load_file(checkpoint / "controlnet" / WEIGHTS)
    assert found.tensors.keys() == original.keys()
    assert all(torch.equal(found.tensors[name], weight.to(dtype)) for name, weight in original.items())


def test_what_was_stored_opens_in_diffusers_and_exports_again(
    checkpoint: Path, tiny_base: Path, tmp_path: Path
) -> None:
    family, base = detect(str(tiny_base)), str(tiny_base)
    first = export(checkpoint, "pth", tmp_path, "mine", "fp32", "plain").path
    store(read_controlnet(first, family, base), tmp_path / "stored")
    assert read_net_file(tmp_path / "stored").format == "diffusers"
    again, original = load_file(tmp_path / "stored" / WEIGHTS), load_file(checkpoint / "controlnet" / WEIGHTS)
    assert all(torch.equal(weight, original[name]) for name, weight in again.items())
    net = family.load_controlnet(tmp_path / "stored")
    assert net.config.attention_head_dim == 4  # no shape tells it: taken from the base


@pytest.mark.parametrize(
    "format", [EXACT[0], *(pytest.param(one, marks=pytest.mark.long) for one in EXACT[1:]), "control_lora"]
)
def test_a_file_of_any_format_draws_in_try_it(
    checkpoint: Path, tiny_base: Path, edges: Image.Image, tmp_path: Path, workspace: Workspace, format: str
) -> None:
    file = export(checkpoint, format, tmp_path, "mine", "fp32", "plain", base=str(tiny_base), rank=32).path
    session = TrySession(workspace, device="cpu")
    first, second = (
        np.asarray(
            session.generate(
                [
                    TryRequest(
                        base=str(tiny_base),
                        controlnet=net,
                        prompt="red circle",
                        control=edges,
                        steps=2,
                        width=64,
                        height=64,
                    )
                ]
            )[0]
        )
        for net in (checkpoint / "controlnet", file)
    )
    assert np.abs(first.astype(int) - second).mean() < 1


def test_a_whole_model_with_the_net_inside_gives_the_net(checkpoint: Path, tiny_base: Path, tmp_path: Path) -> None:
    """As the first published ControlNets were: the base beside it, and all of it under "state_dict"."""
    made = torch.load(export(checkpoint, "pth", tmp_path, "mine", "fp32", "plain").path, weights_only=True)
    torch.save({"state_dict": made | {"model.diffusion_model.out.weight": torch.zeros(2)}}, tmp_path / "old.ckpt")
    found = read_controlnet(tmp_path / "old.ckpt", detect(str(tiny_base)), str(tiny_base))
    assert found.format == "pth" and found.tensors.keys() == load_file(checkpoint / "controlnet" / WEIGHTS).keys()


def test_a_difference_is_added_to_the_base(checkpoint: Path, tiny_base: Path, tmp_path: Path) -> None:
    family, base = detect(str(tiny_base)), str(tiny_base)
    original = load_file(checkpoint / "controlnet" / WEIGHTS)
    trunk = family.load_denoiser(base, torch.float32).state_dict()
    apart = {name: weight - trunk[name] if name in trunk else weight for name, weight in original.items()}
    save_file(apart | {"difference": torch.zeros(1)}, tmp_path / "difference.safetensors")
    found = read_controlnet(tmp_path / "difference.safetensors", family, base)
    assert all(torch.allclose(found.tensors[name], weight, atol=1e-6) for name, weight in original.items())


def test_program_code_in_a_file_is_never_run(tiny_base: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "trapped",)

    for name in ("zip.pth", "plain.ckpt"):
        if name == "zip.pth":
            torch.save({"control_model.zero_convs.0.0.weight": Trap()}, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(Trap(), protocol=2))
        with pytest.raises(UserError, match=r"was not opened.*program code"):
            read_controlnet(tmp_path / name, detect(str(tiny_base)), str(tiny_base))
    assert not (tmp_path / "trapped").exists()


def test_an_archive_that_unpacks_to_too_much_is_not_opened(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = export(checkpoint, "pth", tmp_path, "mine").path
    monkeypatch.setattr("engine.nets.reading.MAX_PICKLE_BYTES", 1000)
    with pytest.raises(UserError, match=r"was not opened.*unpacks to"):
        read_net_file(file)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_half_a_file_is_reported(checkpoint: Path, tmp_path: Path, ending: str) -> None:
    file = export(checkpoint, "ldm" if ending == ".safetensors" else "pth", tmp_path, "mine").path
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cannot be read.*half-written|was not opened"):
        read_net_file(file)


def test_another_family_or_channel_count_is_reported(checkpoint: Path, tiny_base: Path, tmp_path: Path) -> None:
    family, base = detect(str(tiny_base)), str(tiny_base)
    weights = load_file(checkpoint / "controlnet" / WEIGHTS)
    five = weights | {"controlnet_cond_embedding.conv_in.weight": torch.zeros(8, 5, 3, 3)}
    save_file(five, tmp_path / "five.safetensors")
    with pytest.raises(UserError, match="reads control images of 5 channels"):
        read_controlnet(tmp_path / "five.safetensors", family, base)
    other = tmp_path / "other"  # a base whose text is wider
    shutil.copytree(tiny_base, other)
    config = json.loads((other / "unet" / "config.json").read_text(encoding="utf-8"))
    (other / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 128}), encoding="utf-8")
    for format in ("single_file", "diffusers", "pth"):
        file = export(checkpoint, format, tmp_path / "out", format).path
        with pytest.raises(UserError, match="does not fit the base.*the width of its text"):
            read_controlnet(file, family, str(other))


def test_a_net_with_a_missing_or_broken_tensor_is_reported(checkpoint: Path, tiny_base: Path, tmp_path: Path) -> None:
    weights = load_file(checkpoint / "controlnet" / WEIGHTS)
    name = "mid_block.resnets.0.conv1.weight"
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match=f"lacks {name}"):
        read_controlnet(tmp_path / "short.safetensors", detect(str(tiny_base)), str(tiny_base))
    weights[name][0] = float("inf")
    save_file(weights, tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match=rf"is broken.*{name}"):
        read_controlnet(tmp_path / "broken.safetensors", detect(str(tiny_base)), str(tiny_base))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lora_unet_down.lora_up.weight"], "looks like a LoRA"),
        (["model.diffusion_model.out.2.weight"], "complete Stable Diffusion model"),
        (["up_blocks.0.weight"], "UNet of a base"),
        (["something.weight"], "None of its tensors has a name"),
    ],
)
def test_other_files_are_named(tmp_path: Path, names: list[str], words: str) -> None:
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=f"is not a ControlNet.*{words}"):
        read_net_file(tmp_path / "other.safetensors")


def test_a_path_that_leads_nowhere_or_to_a_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not found"):
        read_net_file(tmp_path / "gone.safetensors")
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    with pytest.raises(UserError, match=r"cannot be read as a ControlNet"):
        read_net_file(tmp_path / "picture.png")


def test_opened_in_the_wanted_precision(checkpoint: Path, tiny_base: Path) -> None:
    net = open_controlnet(checkpoint, detect(str(tiny_base)), str(tiny_base), torch.bfloat16)
    assert {weight.dtype for weight in net.parameters()} == {torch.bfloat16}
    halved = load_file(checkpoint / "controlnet_ema" / WEIGHTS)  # of a checkpoint, the averaged ones
    assert torch.equal(net.conv_in.weight, halved["conv_in.weight"].bfloat16())
