"""Every format from a checkpoint: what is written, what is checked, and that nothing is ever half-written or lost."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.export import export, same_image, self_check, single_file
from engine.export.checkpoint_details import read_details
from engine.export.formats import FORMATS, get
from engine.export.source import public_name, read_source, whole_checkpoint
from engine.families.registry import by_name
from engine.families.unet_control_files import UNET_FILES
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import Cancelled, Control
from engine.nets.outputs import empty_net
from engine.workspace.paths import Workspace
from tests.checkpoint_folder import write_checkpoint
from tests.disk.in_use import open_elsewhere

WEIGHTS = "diffusion_pytorch_model.safetensors"
NAMES = [format.name for format in FORMATS if not (format.ranks or format.holds_base)]
# Control-LoRAs are taken against a base: test_control_lora.py.


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def weights_of(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True) if file.suffix == ".pth" else load_file(file)


@pytest.mark.answers("Which precision, fp16 or bf16? Does bf16 harm the result?")
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("format", NAMES)
def test_every_format_in_every_precision(checkpoint: Path, tmp_path: Path, format: str, precision: Any) -> None:
    result = export(checkpoint, format, tmp_path / "out", "mine", precision, "plain")
    assert result.path == tmp_path / "out" / f"mine_sd15{get(format).ending}"
    beside = {result.path.name, "mine_sd15_card"} if result.path.is_file() else {result.path.name}
    assert {path.name for path in result.path.parent.iterdir()} == beside
    assert f"equal to the checkpoint in {precision}" in result.checked
    file = result.path if result.path.is_file() else result.path / WEIGHTS
    original = load_file(checkpoint / "controlnet" / WEIGHTS)
    written = UNET_FILES.plain_names(format, weights_of(file))
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], weight.to(dtype)) for name, weight in original.items())
    size = sum(p.stat().st_size for p in ([file] if result.path.is_file() else result.path.iterdir()))
    assert result.bytes == size


def test_a_file_that_comfyui_has_open_stays_and_the_message_says_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export(checkpoint, "single_file", tmp_path, "mine")
    before = first.path.read_bytes()
    open_elsewhere(monkeypatch, lambda path: path == first.path, code=5)
    with pytest.raises(UserError, match="was not exported") as raised:
        export(checkpoint, "single_file", tmp_path, "mine", "fp32", overwrite=True)
    assert "ComfyUI keeps files open" in raised.value.why
    assert first.path.read_bytes() == before and (tmp_path / "mine_sd15_card").is_dir()


def test_the_header_says_what_the_net_is_and_nothing_private(checkpoint: Path, tmp_path: Path) -> None:
    facts = header(export(checkpoint, "single_file", tmp_path, "mine").path)
    assert facts["condition_type"] == "canny"
    assert json.loads(facts["condition_parameters"]) == {"low": 50, "high": 150, "blur": 0.0}
    assert (facts["base"], facts["family"], facts["steps"], facts["images_seen"]) == ("my-base", "sd1", "500", "2000")
    assert facts["made_with"] == "ControlNet Studio 0.1.0"
    assert (facts["precision"], facts["weights"]) == ("fp16", "ema")
    assert not any(word in json.dumps(facts) for word in ("somebody", "private", "secret", "/home"))


def test_the_folder_opens_in_diffusers_and_names_no_path(checkpoint: Path, tmp_path: Path) -> None:
    result = export(checkpoint, "diffusers", tmp_path, "mine", "fp32", "plain")
    net = ControlNetModel.from_pretrained(result.path)
    expected = load_file(checkpoint / "controlnet" / WEIGHTS)
    assert all(torch.equal(weight, expected[name]) for name, weight in net.state_dict().items())
    assert "somebody" not in (result.path / "config.json").read_text(encoding="utf-8")


def test_ldm_names_stand_bare_with_the_facts_or_behind_a_prefix_with_nothing(checkpoint: Path, tmp_path: Path) -> None:
    bare = export(checkpoint, "ldm", tmp_path, "bare").path
    assert "zero_convs.0.0.weight" in load_file(bare)
    facts = header(bare)
    assert (facts["condition_type"], facts["format"], facts["base"]) == ("canny", "pt", "my-base")
    oldest = export(checkpoint, "pth", tmp_path, "oldest").path
    written = torch.load(oldest, weights_only=True)
    assert type(written) is dict and all(type(weight) is torch.Tensor for weight in written.values())
    assert all(name.startswith("control_model.") for name in written)
    for file in (bare, oldest):
        assert not any(word in file.read_bytes() for word in (b"somebody", b"private", b"secret"))


def test_the_averaged_weights_are_the_usual_choice(checkpoint: Path, tmp_path: Path) -> None:
    averaged = load_file(export(checkpoint, "single_file", tmp_path, "a", "fp32").path)
    plain = load_file(export(checkpoint, "single_file", tmp_path, "b", "fp32", "plain").path)
    assert all(torch.equal(weight, plain[name] / 2) for name, weight in averaged.items())


def test_a_run_without_averages_says_so(loud_controlnet: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "step-000010", loud_controlnet, has_ema=False)
    with pytest.raises(UserError, match="no averaged weights"):
        export(folder, "single_file", tmp_path / "out", "mine", weights="ema")
    assert header(export(folder, "single_file", tmp_path / "out", "mine").path)["weights"] == "plain"


@pytest.mark.parametrize("format", NAMES)
def test_nothing_is_overwritten_without_being_told_to(checkpoint: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    first = export(checkpoint, format, out, "mine", "fp16").path
    with pytest.raises(UserError, match="already exists"):
        export(checkpoint, format, out, "mine", "fp32")
    file = first if first.is_file() else first / WEIGHTS
    assert {weight.dtype for weight in weights_of(file).values()} == {torch.float16}
    assert export(checkpoint, format, out, "mine", "fp32", overwrite=True).path == first
    assert {weight.dtype for weight in weights_of(file).values()} == {torch.float32}


def test_overwriting_never_takes_a_folder_of_other_things(checkpoint: Path, tmp_path: Path) -> None:
    precious = tmp_path / "mine_sd15"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match="not an export"):
        export(checkpoint, "diffusers", tmp_path, "mine", overwrite=True)
    assert (precious / "thesis.txt").exists()


@pytest.mark.parametrize("format", NAMES)
def test_a_full_disk_is_reported_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(UserError, match="was not exported.*1 B are free on the disk"):
        export(checkpoint, format, tmp_path / "out", "mine")
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(path: Path, _source: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(single_file, "write", fill)
    with pytest.raises(UserError, match="filled up"):
        export(checkpoint, "single_file", tmp_path / "out", "mine")
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_fails_its_check_is_not_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = single_file.write

    def damage(path: Path, source: Any) -> None:
        written(path, source)
        data = bytearray(path.read_bytes())
        data[-40:] = bytes(40)  # as a bad disk would
        path.write_bytes(data)

    monkeypatch.setattr(single_file, "write", damage)
    with pytest.raises(UserError, match=r"failed its check.*different values"):
        export(checkpoint, "single_file", tmp_path / "out", "mine")
    assert not list((tmp_path / "out").iterdir())


def test_the_check_finds_missing_extra_misshapen_and_wrong_tensors(checkpoint: Path) -> None:
    source = read_source(whole_checkpoint(checkpoint), "fp16", "plain")
    name = "conv_in.weight"
    good = source.tensors
    cases = {
        "lacks conv_in.weight": {key: value for key, value in good.items() if key != name},
        "unexpected tensors: has_more": good | {"has_more": good[name]},
        "instead of torch.float16": good | {name: good[name].float()},
        "different values": good | {name: good[name] + 1},
    }
    assert "Read back" in self_check.check(source, source.config, good)
    for words, tensors in cases.items():
        with pytest.raises(UserError, match=words):
            self_check.check(source, source.config, tensors)
    with pytest.raises(UserError, match="config differs"):
        self_check.check(source, source.config | {"controlnet_conditioning_channel_order": "bgr"}, good)


def test_the_check_listens_to_what_the_net_says(checkpoint: Path) -> None:
    """A net whose own weights were replaced on both sides still has to answer like the checkpoint."""
    from dataclasses import replace

    source = read_source(whole_checkpoint(checkpoint), "fp16", "plain")
    other = {name: weight * 1.5 for name, weight in source.tensors.items()}
    with pytest.raises(UserError, match="outputs differ"):
        self_check.check(replace(source, tensors=other), source.config, other)


@pytest.mark.parametrize("damage", ["missing", "short", "no description"])
def test_a_half_written_checkpoint_is_refused(checkpoint: Path, tmp_path: Path, damage: str) -> None:
    weights = checkpoint / "controlnet" / WEIGHTS
    if damage == "missing":
        weights.unlink()
    elif damage == "short":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        (checkpoint / "checkpoint.json").unlink()
    with pytest.raises(UserError, match="missing or incomplete"):
        export(checkpoint, "single_file", tmp_path / "out", "mine")
    assert not (tmp_path / "out").exists()


def test_numbers_that_do_not_fit_or_are_none_are_named(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "controlnet" / WEIGHTS
    weights = load_file(path)
    weights["conv_in.bias"][0] = 1e6
    save_file(weights, path)
    (checkpoint / "checkpoint.json").write_text(
        json.dumps(json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8")) | {"files": {}}),
        encoding="utf-8",
    )
    with pytest.raises(UserError, match=r"in fp16.*too large.*bf16 or fp32"):
        export(checkpoint, "single_file", tmp_path / "out", "mine", weights="plain")
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, path)
    with pytest.raises(UserError, match=r"NaN or infinity.*conv_in.bias"):
        export(checkpoint, "single_file", tmp_path / "out", "mine", weights="plain")


def test_cancel_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    control = Control()
    seen: list[str] = []

    def progress(done: int, _total: int, label: str) -> None:
        seen.append(label)
        if done == 1:
            control.cancel()

    with pytest.raises(Cancelled):
        export(checkpoint, "single_file", tmp_path / "out", "mine", token=control.token, progress=progress)
    assert seen == ["Reading the checkpoint", "Writing"]
    assert not list((tmp_path / "out").iterdir())


def test_unknown_words_are_answered_with_the_known_ones(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="single_file, diffusers"):
        export(checkpoint, "tflite", tmp_path, "mine")
    with pytest.raises(UserError, match="fp16, bf16, fp32"):
        export(checkpoint, "diffusers", tmp_path, "mine", "int8")  # type: ignore[arg-type]


def test_an_export_draws_the_image_of_the_checkpoint(
    checkpoint: Path, tiny_base: Path, edges: Image.Image, tmp_path: Path, workspace: Workspace
) -> None:
    import numpy as np

    exported = export(checkpoint, "diffusers", tmp_path, "mine", "fp16", "plain").path
    session = TrySession(workspace, device="cpu")
    images = [
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
        for net in (checkpoint / "controlnet", exported)
    ]
    assert np.abs(images[0].astype(int) - images[1]).mean() < 1


def test_the_images_of_file_and_checkpoint_are_compared(
    checkpoint: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked(name: str, base: str) -> str:
        return export(checkpoint, "single_file", tmp_path, name, base=base).checked

    assert "draws the same image from both" in checked("with-base", str(tiny_base))
    assert "the base is not on this computer" in checked("without-base", "")
    assert "No images were compared: The model" in checked("broken-base", str(tmp_path))
    little = psutil.virtual_memory()._replace(available=2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    assert "GB of memory, and 1.0 MB are free" in checked("no-memory", str(tiny_base))


def test_another_image_fails_the_check(checkpoint: Path, tiny_base: Path) -> None:
    source = read_source(whole_checkpoint(checkpoint), "fp32", "plain", read_details(checkpoint))
    family = by_name("sd1")
    assert "same image" in same_image.check(source, source.tensors, family, str(tiny_base), "file")
    wrong = {
        name: -weight if "zero" in name or "controlnet_" in name else weight for name, weight in source.tensors.items()
    }
    with pytest.raises(UserError, match="a different image"):
        same_image.check(source, wrong, family, str(tiny_base), "file")


@pytest.mark.parametrize(
    ("base", "public"),
    [
        ("demo", "demo"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("/home/me/bases/sd15", "sd15"),
        (r"C:\Users\me\bases\sd15", "sd15"),
        ("~/sd15", "sd15"),
        ("", ""),
    ],
)
def test_only_the_last_part_of_a_path_travels(base: str, public: str) -> None:
    assert public_name(base) == public


@pytest.mark.answers("Missing keys, wrong yaml, .pth conversion in AUTOMATIC1111")
def test_at_the_real_size_of_sd15_the_readers_find_their_340_tensors() -> None:
    """On the meta device: names and shapes of the real thing, without its 1.4 GB."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel

    from engine.families.registry import by_name

    with init_empty_weights():
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        net = by_name("sd1").new_controlnet(unet)
    shapes = {name: tuple(weight.shape) for name, weight in empty_net(dict(net.config)).state_dict().items()}
    assert len(shapes) == 340
    assert shapes[UNET_FILES.trigger] == (16, 3, 3, 3)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 361_279_120
    assert len(shapes["down_blocks.0.attentions.0.proj_in.weight"]) == 4
    assert shapes["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"] == (320, 768)
    assert sum(name.startswith("controlnet_down_blocks") for name in shapes) == 24
