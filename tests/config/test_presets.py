"""Shipped presets load, and layers remember where each value came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import demo
from engine.config import SECTIONS, RunConfig
from engine.config.presets import (
    BASES_FILE,
    DATASETS_FILE,
    OTHER_KINDS,
    PRESETS_FOLDER,
    all_presets,
    flatten,
    load_preset,
    resolve,
    suggest,
    unflatten,
)
from engine.errors import UserError
from engine.families.facts import NAMES

DEMO = Path(demo.__file__).with_name("demo.toml")
PRESET_FILES = sorted(
    set(PRESETS_FOLDER.glob("*.toml")) - {PRESETS_FOLDER / BASES_FILE, PRESETS_FOLDER / DATASETS_FILE}
)


@pytest.mark.answers("Earlier with small batches, or later with large ones?")
@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda p: p.stem)
def test_a_shipped_preset_loads_and_explains_itself(path: Path) -> None:
    preset = load_preset(path)
    assert preset.title and preset.hint
    assert preset.values, "a preset that sets nothing"
    assert "#" in path.read_text(encoding="utf-8"), "each choice has its reason as a comment"
    resolve((preset.name, preset.values))


def test_a_base_of_another_family_gets_its_own_settings_and_says_where_they_come_from() -> None:
    card = load_preset(PRESETS_FOLDER / "12gb.toml")
    plain, own = resolve(*card.layers("sd1")), resolve(*card.layers("sdxl"))
    assert (plain[0].train.gradient_checkpointing, own[0].train.gradient_checkpointing) == ("controlnet", "both")
    assert (own[0].data.resolution, own[0].model.control_lora_rank) == (1024, 64)
    assert own[1]["model.control_lora_rank"] == "preset 12gb, for sdxl"
    assert own[1]["train.precision"] == "preset 12gb"
    assert resolve(*card.layers("")) == plain


@pytest.mark.parametrize("path", [*PRESET_FILES, DEMO], ids=lambda p: p.stem)
@pytest.mark.parametrize("what", OTHER_KINDS)
def test_whatever_is_trained_the_settings_of_a_preset_go_together(path: Path, what: str) -> None:
    preset = load_preset(path)
    for family in ("", *NAMES):
        config, origins = resolve(*preset.layers(family, what), ("you", {"tuning": {"what": what}}))
        assert config.model.control_lora_rank == 0 and origins["model.control_lora_rank"] == "default"


def test_what_is_trained_has_its_own_settings_over_those_of_the_base(tmp_path: Path) -> None:
    card = load_preset(PRESETS_FOLDER / "12gb.toml")
    config, origins = resolve(*card.layers("sdxl", "lora"))
    assert (config.optim.learning_rate, config.train.gradient_checkpointing) == (1e-4, "both")
    assert origins["optim.learning_rate"] == "preset 12gb, for lora"
    assert origins["train.gradient_checkpointing"] == "preset 12gb, for lora and sdxl"
    assert origins["data.resolution"] == "preset 12gb, for sdxl"
    (tmp_path / "mine.toml").write_text("[lora]\ntrain = 5", encoding="utf-8")
    with pytest.raises(UserError):
        load_preset(tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_text("lora = 5", encoding="utf-8")
    with pytest.raises(UserError, match="are sections"):
        load_preset(tmp_path / "mine.toml")


@pytest.mark.parametrize("text", ["[sdxl.train]\nstpes = 5", "[sd7.train]\nsteps = 5"])
def test_a_wrong_setting_for_a_family_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="is not a setting"):
        load_preset(tmp_path / "mine.toml")


def test_presets_for_cards_ask_for_bf16_which_a_run_replaces_where_the_card_has_none() -> None:
    """``engine.machine.precision.usable_precision`` does that; fp16 overflows where bf16 does not."""
    wanted = {preset.name: resolve(*preset.layers("sd1"))[0].train.precision for preset in all_presets()}
    assert wanted.pop("cpu") == "fp32" and set(wanted.values()) == {"bf16"}


def test_presets_go_from_no_card_at_all_to_ever_larger_ones() -> None:
    sizes = [preset.min_vram_gib for preset in all_presets()]
    assert len(sizes) == len(PRESET_FILES)
    assert sizes[0] == 0 and sizes == sorted(set(sizes)), "one preset for each size of card"


@pytest.mark.parametrize(
    ("vram", "name"),
    [
        (None, "cpu"),
        (3.9, "cpu"),
        (5.8, "6gb"),
        (7.6, "8gb"),
        (11.6, "12gb"),
        (15.6, "16gb"),
        (23.5, "24gb"),
        (47, "24gb"),
    ],
)
def test_a_card_gets_the_largest_preset_that_fits(vram: float | None, name: str) -> None:
    assert suggest(vram).name == name


@pytest.mark.parametrize("family", ["", "sd1", "sd2", "sdxl"])
def test_every_setting_has_a_place_in_a_preset_and_says_where_it_came_from(tmp_path: Path, family: str) -> None:
    """One with all of them, some with other values than the defaults."""
    asked = flatten(RunConfig().model_dump(include=set(SECTIONS)))
    asked |= {"objective.offset_noise": 0.05, "optim.ema_device": "cpu", "optim.schedule": "cosine"}
    asked |= {"objective.sd_locked": False, "objective.min_snr_gamma": 5.0, "optim.warmup_steps": 7}
    lines = [f"{'.'.join(filter(None, [family, name]))} = {json.dumps(value)}" for name, value in asked.items()]
    (tmp_path / "all.toml").write_text("\n".join(lines), encoding="utf-8")
    config, origins = resolve(*load_preset(tmp_path / "all.toml").layers(family))
    got = flatten(config.model_dump())
    assert {name: got[name] for name in asked} == asked
    assert {origins[name] for name in asked} == {f"preset all, for {family}" if family else "preset all"}


def test_later_layers_win_and_origins_are_kept() -> None:
    config, origins = resolve(
        ("preset 8gb", {"train": {"batch_size": 1, "steps": 100}}), ("you", {"train": {"steps": 7}})
    )
    assert (config.train.batch_size, config.train.steps) == (1, 7)
    assert origins["train.batch_size"] == "preset 8gb"
    assert origins["train.steps"] == "you"
    assert origins["optim.learning_rate"] == "default"


def test_flatten_and_back() -> None:
    nested = {"train": {"steps": 5}, "name": "x"}
    assert unflatten(flatten(nested)) == nested


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf[train]\r\nsteps = 7\r\n")
    assert load_preset(tmp_path / "mine.toml").values == {"train": {"steps": 7}}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[train]\nstpes = 5", "train.stpes"),
        ("[train]\nsteps = 0", "train.steps"),
        ("[train\n", "TOML"),
        ('[model]\nbase = "C:\\Users\\x"', "Write Windows paths in single quotes"),
        ("[optim]\nlearning_rate = 0,00001", "Write decimals with a point"),
    ],
)
def test_a_wrong_preset_is_refused_with_the_place(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_preset(path)
    assert "mine.toml" in str(caught.value)
    assert word in str(caught.value)
