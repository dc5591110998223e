"""A ControlNet on what a run has taught the base: the export, and the settings that use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import parse
from engine.config.presets import unflatten
from engine.errors import UserError
from engine.training.follow_up import controlnet_settings, exported_for_controlnet
from engine.workspace.paths import Workspace
from tests.short_runs import train
from tests.training.test_lora import images_only, run_of  # noqa: F401


def quiet(done: int, total: int, label: str) -> None:
    """No progress is shown."""


def test_a_lora_becomes_a_file_in_the_base_of_a_controlnet(images_only: Workspace, tiny_base: Path) -> None:  # noqa: F811
    run = run_of(images_only, tiny_base, train={"steps": 2}, validation={"check_every": 0})
    with pytest.raises(UserError, match="nothing to train a ControlNet on"):
        exported_for_controlnet(images_only, run, None, quiet)
    train(images_only, run)
    made = exported_for_controlnet(images_only, run, None, quiet)
    written = made.stat().st_mtime_ns
    assert exported_for_controlnet(images_only, run, None, quiet) == made and made.stat().st_mtime_ns == written
    made.rename(made.with_name(made.name.replace("step-2", "step-20")))
    assert exported_for_controlnet(images_only, run, None, quiet) == made, "another step's is not taken for it"
    config = parse(unflatten(controlnet_settings(run, made)))
    assert (config.tuning.what, config.data.dataset, config.data.resolution) == ("controlnet", "images", 64)
    assert (config.model.base, config.model.ingredients) == (str(tiny_base), str(made))


def test_a_whole_base_becomes_the_base(images_only: Workspace, tiny_base: Path) -> None:  # noqa: F811
    run = run_of(images_only, tiny_base, tuning={"what": "base"})
    settings = controlnet_settings(run, Path("/exports/taught"))
    assert settings["model.base"] == "/exports/taught" and "model.ingredients" not in settings


@pytest.mark.long
def test_the_folder_of_a_whole_base_is_a_base(images_only: Workspace, tiny_base: Path) -> None:  # noqa: F811
    quick = {"steps": 1, "precision": "fp32"}
    run = run_of(images_only, tiny_base, tuning={"what": "base"}, train=quick, validation={"check_every": 0})
    train(images_only, run)
    made = exported_for_controlnet(images_only, run, None, quiet)
    assert made.is_dir() and exported_for_controlnet(images_only, run, None, quiet) == made
    config = parse(unflatten(controlnet_settings(run, made)))
    assert images_only.locate_base(config.model.base) == str(made)
