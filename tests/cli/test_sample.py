"""``sample`` from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.cli.main import main
from engine.config.presets import resolve
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.inference.image_info import read_settings
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace


@pytest.fixture(scope="module")
def sampled(
    tmp_path_factory: pytest.TempPathFactory,
    paired_folder: Path,
    tiny_base: Path,
) -> tuple[Path, str]:
    """A workspace and a run in it that has not been trained: the net is given."""
    workspace = Workspace(tmp_path_factory.mktemp("sample") / "workspace")
    Dataset.create(workspace, "pairs", scan_folder(paired_folder))
    data = {"dataset": "pairs", "resolution": 64, "held_out": 2}
    values: dict[str, Any] = {"model": {"base": str(tiny_base)}, "data": data, "validation": {"sampling_steps": 2}}
    return workspace.root, create_run(workspace, resolve(("test", values))[0], {}).name


def test_images_are_drawn_and_carry_their_settings(
    sampled: tuple[Path, str],
    loud_controlnet: Path,
    photos: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, run = sampled
    Image.fromarray(photos["coffee"]).save(tmp_path / "photo.png")
    common = ["--workspace", str(root), "sample", run, "--net", str(loud_controlnet), "--out", str(tmp_path / "out")]
    assert main([*common, "--count", "2", "--without", "--sampler", "ddim", "--seed", "7"]) == 0
    names = sorted(path.name.split("_seed-")[1] for path in (tmp_path / "out").iterdir())
    assert names == ["7_with.png", "7_without.png", "8_with.png"]
    settings = read_settings(next((tmp_path / "out").glob("*seed-8_with.png")))
    assert (settings["seed"], settings["sampler"], settings["run"], settings["width"]) == (8, "ddim", run, 64)
    assert settings["prompt"]  # the held-out image's caption
    capsys.readouterr()
    file = tmp_path / "new" / "s.png"
    assert main([*common, "--control", str(tmp_path / "photo.png"), "--prompt", "a cup", "--out", str(file)]) == 0
    assert file.is_file() and [path.name for path in file.parent.iterdir()] == ["s.png"]
    assert "does not look like the control images" in capsys.readouterr().out


def test_values_out_of_bounds_and_a_second_run_without_a_checkpoint_are_named(
    sampled: tuple[Path, str], loud_controlnet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = sampled
    common = ["--workspace", str(root), "sample", run, "--net", str(loud_controlnet)]
    assert main([*common, "--steps", "0"]) == 2
    assert "Sampling steps" in capsys.readouterr().err
    assert main([*common, "--second", run]) == 2
    assert f"{run} has no checkpoint" in capsys.readouterr().err


def test_a_missing_checkpoint_and_a_missing_run_are_named(
    sampled: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = sampled
    assert main(["--workspace", str(root), "sample", run, "--step", "500"]) == 2
    assert "no checkpoint of step 500" in capsys.readouterr().err
    assert main(["--workspace", str(root), "sample", "gone"]) == 2
    assert "no run called gone" in capsys.readouterr().err
