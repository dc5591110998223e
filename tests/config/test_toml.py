"""Settings as a file, and the command for several cards."""

from __future__ import annotations

import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.config import RunConfig
from engine.config.presets import PRESETS_FOLDER, all_presets, load_preset, read_toml, resolve
from engine.config.toml import launch_command, to_toml, write_run_file
from engine.workspace.paths import APP_FOLDER, Workspace


@pytest.mark.parametrize("preset", [preset.name for preset in all_presets()])
def test_a_written_file_gives_the_same_settings_over_any_preset(preset: str, tmp_path: Path) -> None:
    odd = {"name": 'birds "at" dawn \\ é\n', "data": {"dataset": "a b"}, "model": {"base": r"C:\models\one.ckpt"}}
    config, _ = resolve((preset, load_preset(PRESETS_FOLDER / f"{preset}.toml").values), ("you", odd))
    write_run_file(tmp_path / "run.toml", config)
    assert resolve(("other", {"train": {"steps": 7}}), ("file", read_toml(tmp_path / "run.toml")))[0] == config


def test_the_file_says_what_each_setting_is() -> None:
    text = to_toml(RunConfig())
    assert "batch_size = 4  # Batch size" in text
    assert tomllib.loads(text)["train"]["steps"] == 4000


def test_the_command_line_writes_it_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.toml"
    start = ["--workspace", str(tmp_path / "ws"), "train", "--preset", "cpu", "--set", "train.steps=9"]
    assert main([*start, "--write", str(file)]) == 0
    assert str(file) in capsys.readouterr().out
    assert read_toml(file)["train"]["steps"] == 9
    assert not list((tmp_path / "ws" / "runs").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="its terminal quotes otherwise")
def test_the_command_names_this_python_and_the_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "my space")
    words = shlex.split(launch_command(2, "resume", "my run", workspace=workspace))
    assert words[0] == sys.executable
    assert words[1:] == ["-m", "engine.cli", "--workspace", str(workspace.root), "resume", "my run", "--processes", "2"]
    assert "--workspace" not in launch_command(2, "train", "x.toml")


@pytest.mark.parametrize(("file", "machines"), [("two-cards.yaml", 1), ("two-machines.yaml", 2)])
def test_accelerate_reads_the_configurations_of_the_docs(file: str, machines: int) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(APP_FOLDER / "docs" / file))
    assert (config.num_machines, config.num_processes) == (machines, 2)
    assert config.distributed_type == DistributedType.MULTI_GPU
