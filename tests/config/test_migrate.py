"""Settings of another version: brought up to date, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import config
from engine.config import CONFIG_VERSION, RunConfig, migrate, parse
from engine.config.migrate import FIRST_VERSION, MIGRATIONS, migrated
from engine.errors import UserError
from engine.runs.run import Run, write_run
from engine.workspace.paths import Workspace


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    values["train"]["steps"] = values["train"].pop("length")
    return values


def halved(values: dict[str, Any]) -> dict[str, Any]:
    values["train"]["steps"] //= 2
    return values


def test_older_settings_go_through_every_version_in_turn_and_stay_as_they_were() -> None:
    old = {"version": 1, "train": {"length": 100}}
    new = migrated(old, "These settings", 3, {1: renamed, 2: halved})
    assert new == {"version": 3, "train": {"steps": 50}}
    assert old == {"version": 1, "train": {"length": 100}}
    assert migrated({"version": 2, "train": {"steps": 10}}, "x", 3, {1: renamed, 2: halved})["train"]["steps"] == 5


def test_current_settings_and_those_without_a_version_are_left_alone() -> None:
    for values in ({"train": {"steps": 7}}, {"version": 3, "train": {"steps": 7}}):
        assert migrated(values, "x", 3, {}) == values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"version": 4}, "Update the app"),
        ({"version": 1}, "no longer reads version 1"),
        ({"version": "one"}, "'one', which is none"),
        ({"version": 0}, "which is none"),
        ({"version": True}, "which is none"),
        ({"version": 2, "train": {}}, "bringing them up to date failed"),
    ],
)
def test_what_cannot_be_migrated_is_refused_in_a_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match="The settings of mine cannot be read") as caught:
        migrated(values, "The settings of mine", 3, {2: renamed})
    assert words in str(caught.value)


def test_every_version_there_has_been_can_be_read() -> None:
    assert sorted(MIGRATIONS) == list(range(FIRST_VERSION, CONFIG_VERSION))


def test_a_run_of_an_earlier_version_opens(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    values = RunConfig(name="old").model_dump(mode="json")
    values["train"]["length"] = values["train"].pop("steps")
    folder = workspace.new_run("old")
    write_run(folder, {"config": values})
    before = Path(folder / "run.json").read_bytes()
    with pytest.raises(UserError, match="train.length is not a setting"):
        Run(folder)
    monkeypatch.setattr(config, "CONFIG_VERSION", CONFIG_VERSION + 1)
    monkeypatch.setattr(migrate, "MIGRATIONS", {CONFIG_VERSION: renamed})
    assert Run(folder).config.train.steps == RunConfig().train.steps
    assert (folder / "run.json").read_bytes() == before
    assert json.loads(before)["config"]["version"] == CONFIG_VERSION


def test_a_setting_that_was_a_switch_is_read_as_what_it_became() -> None:
    assert parse({"train": {"gradient_checkpointing": True}}).train.gradient_checkpointing == "controlnet"
