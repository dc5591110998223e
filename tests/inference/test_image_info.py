"""Settings go into a PNG and come back, in our words and in AUTOMATIC1111's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import UserError
from engine.inference.image_info import THEIRS, a1111_text, newest, parse_a1111, read_settings, save_png

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


def test_what_is_written_comes_back_whole_and_the_image_is_untouched(
    tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    image = Image.fromarray(photos["coffee"])
    path = save_png(tmp_path / "one.png", image, SETTINGS)
    assert read_settings(path) == SETTINGS
    assert np.array_equal(Image.open(path), photos["coffee"])
    assert [p.name for p in tmp_path.iterdir()] == ["one.png"]


def test_the_text_is_laid_out_as_theirs(tmp_path: Path) -> None:
    text = Image.open(save_png(tmp_path / "one.png", Image.new("RGB", (8, 8)), SETTINGS)).info[THEIRS]
    *prompt, negative, line = text.split("\n")
    assert "\n".join(prompt) == SETTINGS["prompt"]
    assert negative == "Negative prompt: ugly, “blurry”"
    assert line.startswith("Steps: 12, Sampler: DPM++ 2M Karras, CFG scale: 2.5, Seed: 123456789012, Size: 128x192, ")
    assert 'Model: "my base, v2", ControlNet 0: "Module: none, Model: Step 500, Weight: 0.8, ' in line
    assert "Control Mode: My prompt is more important" in line


def test_a_nets_name_does_not_spoil_the_extensions_line() -> None:
    """The ControlNet extension parts the line at commas and each part at its colon: two pieces, or it reads nothing."""
    line = a1111_text(SETTINGS | {"net": "C:\\nets\\my, own: v2"}).split("\n")[-1]
    unit = json.loads(line[line.index("ControlNet 0: ") + len("ControlNet 0: ") : line.index(", Version")])
    pairs = [part.strip().split(": ") for part in unit.split(",")]
    assert all(len(pair) == 2 for pair in pairs)
    assert [name for name, _ in pairs] == [
        "Module", "Model", "Weight", "Guidance Start", "Guidance End", "Control Mode",
    ]  # fmt: skip


def test_their_text_is_read(tmp_path: Path) -> None:
    found = parse_a1111(a1111_text(SETTINGS))
    names = ("prompt", "negative", "steps", "sampler", "guidance", "seed", "width", "height")
    assert found == {name: SETTINGS[name] for name in names}
    newer = (
        "a cat\nSteps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 5, Size: 512x768, "
        'Lora hashes: "a: b, c"'
    )
    assert parse_a1111(newer) == {
        "prompt": "a cat", "negative": "", "steps": 30, "guidance": 7.0, "seed": 5, "width": 512, "height": 768,
        "sampler": "dpmpp_2m_karras",
    }  # fmt: skip
    foreign = parse_a1111("a cat\nSteps: 30, Sampler: Restart, CFG scale: x, Seed: 5")
    assert foreign == {"prompt": "a cat", "negative": "", "steps": 30, "seed": 5}
    assert parse_a1111("only a prompt: with a colon") == {"prompt": "only a prompt: with a colon", "negative": ""}


def test_an_image_without_settings_says_so(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    with pytest.raises(UserError, match=r"bare.png carries no settings"):
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
