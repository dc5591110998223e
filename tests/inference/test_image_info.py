"""Settings are written into a PNG and read back, as our JSON and as AUTOMATIC1111's text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import UserError
from engine.inference.image_info import A1111_KEY, a1111_text, newest, parse_a1111, read_settings, save_png

OLD_VERSION = Path(__file__).parent / "old_version"
SETTINGS: dict[str, Any] = {
    "prompt": "red circle, (blue: background)\nsecond line",
    "negative": "ugly, “blurry”",
    "steps": 12,
    "sampler": "dpmpp_2m_karras",
    "guidance": 2.5,
    "seed": 123456789012,
    "width": 128,
    "height": 192,
    "base": "/models/my base, v2.safetensors",
    "net": "Step 500",
    "strength": 0.8,
    "start": 0.1,
    "end": 0.9,
    "balance": "prompt",
    "run": "2026-01-01_demo",
}


def test_settings_come_back_complete_and_the_pixels_are_the_same(tmp_path: Path, photos: dict[str, np.ndarray]) -> None:
    image = Image.fromarray(photos["coffee"])
    path = save_png(tmp_path / "one.png", image, SETTINGS)
    assert read_settings(path) == SETTINGS
    assert np.array_equal(Image.open(path), photos["coffee"])
    assert [p.name for p in tmp_path.iterdir()] == ["one.png"]


def test_the_text_has_the_layout_of_a1111(tmp_path: Path) -> None:
    text = Image.open(save_png(tmp_path / "one.png", Image.new("RGB", (8, 8)), SETTINGS)).info[A1111_KEY]
    *prompt, negative, line = text.split("\n")
    assert "\n".join(prompt) == SETTINGS["prompt"]
    assert negative == "Negative prompt: ugly, “blurry”"
    assert line.startswith("Steps: 12, Sampler: DPM++ 2M Karras, CFG scale: 2.5, Seed: 123456789012, Size: 128x192, ")
    assert 'Model: "my base, v2", ControlNet 0: "Module: none, Model: Step 500, Weight: 0.8, ' in line
    assert "Control Mode: My prompt is more important" in line


def test_a_nets_name_does_not_spoil_the_extensions_line() -> None:
    """The ControlNet extension splits the line at commas and each part at its colon, or it reads nothing."""
    line = a1111_text(SETTINGS | {"net": "C:\\nets\\my, own: v2"}).split("\n")[-1]
    unit = json.loads(line[line.index("ControlNet 0: ") + len("ControlNet 0: ") : line.index(", Version")])
    pairs = [part.strip().split(": ") for part in unit.split(",")]
    assert all(len(pair) == 2 for pair in pairs)
    assert [name for name, _ in pairs] == [
        "Module",
        "Model",
        "Weight",
        "Guidance Start",
        "Guidance End",
        "Control Mode",
    ]


def test_a1111_text_is_read(tmp_path: Path) -> None:
    found = parse_a1111(a1111_text(SETTINGS))
    names = ("prompt", "negative", "steps", "sampler", "guidance", "seed", "width", "height")
    assert found == {name: SETTINGS[name] for name in names}
    newer = (
        "a cat\nSteps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 5, Size: 512x768, "
        'Lora hashes: "a: b, c"'
    )
    assert parse_a1111(newer) == {
        "prompt": "a cat",
        "negative": "",
        "steps": 30,
        "guidance": 7.0,
        "seed": 5,
        "width": 512,
        "height": 768,
        "sampler": "dpmpp_2m_karras",
    }
    foreign = parse_a1111("a cat\nSteps: 30, Sampler: Restart, CFG scale: x, Seed: 5")
    assert foreign == {"prompt": "a cat", "negative": "", "steps": 30, "seed": 5}
    assert parse_a1111("only a prompt: with a colon") == {"prompt": "only a prompt: with a colon", "negative": ""}


def test_the_text_of_a_real_a1111_image_is_read() -> None:
    text = (
        "portrait of a sailor, (85mm:1.1), <lora:filmgrain:0.6>,\nsea, storm\n"
        "Negative prompt: lowres, (worst quality, low quality:1.4),\nextra fingers\n"
        "Steps: 24, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 1944526060, Size: 512x768, "
        "Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, VAE: vae-ft-mse.safetensors, Denoising strength: 0.45, "
        'Clip skip: 2, ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 0.8, Resize '
        "Mode: Crop and Resize, Processor Res: 512, Threshold A: 100.0, Threshold B: 200.0, Guidance Start: 0.0, "
        'Guidance End: 0.9, Pixel Perfect: False, Control Mode: ControlNet is more important", '
        'Lora hashes: "filmgrain: 1a2b3c4d5e6f", Version: v1.10.1'
    )
    assert parse_a1111(text) == {
        "prompt": "portrait of a sailor, (85mm:1.1), <lora:filmgrain:0.6>,\nsea, storm",
        "negative": "lowres, (worst quality, low quality:1.4),\nextra fingers",
        "steps": 24,
        "sampler": "dpmpp_2m_karras",
        "clip_skip": 2,
        "guidance": 5.5,
        "seed": 1944526060,
        "width": 512,
        "height": 768,
        "change": 0.45,
    }


def test_images_of_the_first_version_are_read_into_the_same_values() -> None:
    """Written by version 0.1.0 before its settings were declared in one place, by the command line and by Try it."""
    sampled = {
        "base": "tiny base, v2",
        "prompt": "red circle, (blue: background)\nsecond line",
        "negative": "ugly, “blurry”",
        "seed": 7,
        "steps": 3,
        "guidance": 2.5,
        "strength": 0.8,
        "width": 64,
        "height": 128,
        "without_control": False,
        "sampler": "dpmpp_2m_karras",
        "start": 0.1,
        "end": 0.9,
        "guess": False,
        "balance": "prompt",
        "change": None,
        "second_strength": 1.0,
        "second": "",
        "inpainted": False,
        "run": "2026-11-28_pairs",
        "net": "my net",
    }
    tried = {
        "base": "tiny base, v2",
        "prompt": "red circle",
        "negative": "",
        "seed": 2147483646,
        "steps": 4,
        "guidance": 7.5,
        "strength": 1.05,
        "width": 64,
        "height": 64,
        "without_control": False,
        "sampler": "euler_a",
        "start": 0.0,
        "end": 1.0,
        "guess": True,
        "balance": "balanced",
        "change": 0.55,
        "second_strength": 0.35,
        "second": "nets/my net",
        "inpainted": True,
        "run": "2026-11-28_pairs",
        "net": "Step 2",
        "control": "20261128-185723_2026-11-28_pairs_step-2_seed-2147483646_control.png",
    }
    assert read_settings(OLD_VERSION / "sample_command.png") == sampled
    assert read_settings(OLD_VERSION / "try_it.png") == tried
    assert read_settings(OLD_VERSION / "try_it_control.png") == tried | {"control": ""}
    for name, settings in (("sample_command", sampled), ("try_it", tried)):
        text = Image.open(OLD_VERSION / f"{name}.png").info[A1111_KEY]
        assert a1111_text(settings) == text, "and such an image is written as before"
        as_a1111 = ("prompt", "negative", "steps", "guidance", "seed", "width", "height", "sampler", "change")
        known = {key: settings[key] for key in as_a1111 if settings[key] is not None}
        assert parse_a1111(text) == known


def test_an_image_without_settings_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    with pytest.raises(UserError, match=r"bare.png contains no settings"):
        read_settings(tmp_path / "bare.png")
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    with pytest.raises(UserError, match=r"text.png cannot be read"):
        read_settings(tmp_path / "text.png")


def test_the_newest_come_first(tmp_path: Path) -> None:
    for name in ("20260101-000000_a_with.png", "20260102-000000_a_with.png", "20260103-000000_a_control.png"):
        (tmp_path / name).write_bytes(b"")
    found = newest(tmp_path, 5, "_with.png")
    assert [path.name[:8] for path in found] == ["20260102", "20260101"]
    assert len(newest(tmp_path, 1, "_with.png")) == 1
