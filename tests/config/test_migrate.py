"""Settings of another version: brought up to date, or refused with a sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig, migrate, parse
from engine.config.migrate import migrated
from engine.config.presets import load_preset, resolve
from engine.errors import UserError
from engine.runs.run import Run, write_run
from engine.workspace.paths import Workspace


def renamed(values: dict[str, Any]) -> None:
    if "length" in values.get("train", {}):
        values["train"]["steps"] = values["train"].pop("length")


def halved(values: dict[str, Any]) -> None:
    if "rate" in values.get("optim", {}):
        values["optim"]["learning_rate"] = values["optim"].pop("rate") / 2


def test_every_migration_is_applied_to_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "MIGRATIONS", (renamed, halved))
    old = {"version": 1, "train": {"length": 100}, "optim": {"rate": 0.2}}
    before = copy.deepcopy(old)
    new = {"version": 1, "train": {"steps": 100}, "optim": {"learning_rate": 0.1}}
    assert migrated(old, version=3) == new and old == before
    assert migrated(new, version=3) == new, "current settings are left alone"


@pytest.mark.answers("Settings of another version")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"version": 4}, "Update the app"),
        ({"version": "one"}, "'one', which is not a version number"),
        ({"version": 0}, "which is not a version number"),
        ({"version": True}, "which is not a version number"),
        ({"version": 2, "optim": {"rate": "fast"}}, "could not be converted"),
    ],
)
def test_what_cannot_be_migrated_is_refused_with_a_sentence(
    values: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "MIGRATIONS", (renamed, halved))
    with pytest.raises(UserError, match="The settings of mine cannot be read") as caught:
        migrated(values, "The settings of mine", 3)
    assert words in str(caught.value)


@pytest.mark.answers("Settings of another version")
@pytest.mark.parametrize(("old", "new"), [(True, "controlnet"), (False, "none"), ("both", "both")])
def test_checkpointing_that_was_a_switch_is_read_as_what_it_became(
    old: object, new: str, workspace: Workspace, tmp_path: Path
) -> None:
    values = RunConfig(name="old").model_dump(mode="json")
    values["train"]["gradient_checkpointing"] = old
    assert parse(values).train.gradient_checkpointing == new
    folder = workspace.new_run("old")
    write_run(folder, {"config": values})
    before = (folder / "run.json").read_bytes()
    assert Run(folder).config.train.gradient_checkpointing == new
    assert (folder / "run.json").read_bytes() == before
    (tmp_path / "mine.toml").write_text(f"[train]\ngradient_checkpointing = {json.dumps(old)}\n", encoding="utf-8")
    preset = load_preset(tmp_path / "mine.toml")
    assert resolve(*preset.layers())[0].train.gradient_checkpointing == new


def test_a_layer_of_an_earlier_version_lies_where_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "MIGRATIONS", (renamed,))
    old, new = ("old", {"train": {"length": 5}}), ("new", {"train": {"steps": 7}})
    for layers, steps, origin in (((old, new), 7, "new"), ((new, old), 5, "old")):
        config, origins = resolve(*layers)
        assert config.train.steps == steps and origins["train.steps"] == origin


def test_settings_that_are_no_sections_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train"):
        parse({"train": 5})
