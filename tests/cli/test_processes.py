"""Several processes from the command line: started, interrupted, killed, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from engine.cli.main import EXIT_INTERRUPTED, EXIT_PROBLEM, main
from engine.cli.processes import SHARED
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.runs.run import Run
from engine.workspace.paths import APP_FOLDER, Workspace


def test_commands_for_one_process_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["--workspace", str(tmp_path / "ws"), "doctor"]) == EXIT_PROBLEM
    assert "doctor runs in one process" in capsys.readouterr().err
    assert "doctor" not in SHARED


@pytest.mark.answers("accelerate, DeepSpeed, xformers, bitsandbytes, triton, chardet: what do I need?")
@pytest.mark.parametrize("name", ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_USE_DEEPSPEED"])
def test_a_single_process_puts_accelerates_settings_aside_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv(name, "4" if name.endswith("STEPS") else "true")
    assert main(["--workspace", str(tmp_path / "ws"), "doctor"]) == 0
    assert name not in os.environ
    output = capsys.readouterr().out
    assert "gradient_accumulation_steps 4" in output or "DeepSpeed" in output


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, ("set up for DeepSpeed, which is not installed", "fsdp.yaml")),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, ("set up for Megatron-LM", "two-cards.yaml")),
        ({"ACCELERATE_USE_FSDP": "true"}, ("first version of FSDP", "fsdp_version: 2")),
    ],
)
def test_processes_that_cannot_split_a_run_are_refused_before_anything_is_done(
    settings: dict[str, str], words: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as where it is not installed
    for name, value in {**settings, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["--workspace", str(tmp_path / "ws"), "train", "--dataset", "pairs"]) == EXIT_PROBLEM
    output = capsys.readouterr().err
    assert all(word in output for word in words) and "Traceback" not in output
    monkeypatch.setenv("RANK", "1")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert main(["--workspace", str(tmp_path / "ws"), "train", "--dataset", "pairs"]) == EXIT_PROBLEM
    assert not capsys.readouterr().err, "one of them speaks"


@pytest.fixture
def command(tmp_path: Path, paired_folder: Path, tiny_base: Path) -> list[str]:
    """Trains on the tiny base, in a workspace of its own; how many steps is to be added."""
    Dataset.create(Workspace(tmp_path / "ws"), "pairs", scan_folder(paired_folder))
    values = {"data.resolution": 64, "data.held_out": 2, "train.batch_size": 2, "validation.every": 0}
    values |= {"train.precision": "fp32", "train.checkpoint_every": 4, "optim.warmup_steps": 0}
    words = ["-m", "engine.cli", "--workspace", str(tmp_path / "ws"), "train", "--preset", "cpu", "--dataset", "pairs"]
    return [*words, "--base", str(tiny_base), *(w for n, v in values.items() for w in ("--set", f"{n}={v}"))]


def the_run(command: list[str]) -> Run:
    return Run(Workspace(command[command.index("--workspace") + 1]).run_folders()[0])


def follow(child: subprocess.Popen[str], until: str) -> list[str]:
    """What it prints, up to a line with ``until`` in it."""
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if until in line:
            return lines
    raise AssertionError("".join(lines))


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals for one child")
@pytest.mark.parametrize("how", ["ctrl-c", "killed"])
def test_two_processes_are_interrupted_or_lose_one_and_the_run_resumes(command: list[str], how: str) -> None:
    together = [sys.executable, *command, "--set", "train.steps=100000", "--processes", "2"]
    child = subprocess.Popen(together, cwd=APP_FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watchdog = threading.Timer(400, child.kill)
    watchdog.start()
    try:
        follow(child, "Step 4 saved")
        if how == "ctrl-c":
            child.send_signal(signal.SIGINT)
        else:
            second = [p for p in psutil.Process(child.pid).children() if p.environ().get("RANK") == "1"]
            second[0].send_signal(signal.SIGKILL)
        output = child.communicate()[0]
    finally:
        watchdog.cancel()
        child.kill()
    run = the_run(command)
    if how == "ctrl-c":
        assert child.returncode == EXIT_INTERRUPTED, output
        assert "Finishing this step" in output and "Paused. Saved at step" in output
        assert run.ending == "paused"
    else:
        assert child.returncode == EXIT_PROBLEM, output
        assert output.count("one of its processes disappeared") == 1 and "Traceback" not in output
        assert run.ending == "failed" and run.last_step >= 4
    about = run.about
    about["config"]["train"]["steps"] = run.last_step + 2
    (run.folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    assert main([*command[2:4], "resume", run.name]) == 0
    assert Run(run.folder).completed


@pytest.mark.long
def test_accelerate_with_one_process_is_the_plain_command_bit_for_bit(command: list[str]) -> None:
    launched = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--cpu"]
    launched += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    weights = []
    for start in (launched, []):
        subprocess.run(
            [sys.executable, *start, *command, "--set", "train.steps=5"], cwd=APP_FOLDER, check=True, timeout=400
        )
        folder = the_run(command).checkpoints()[-1].folder
        weights.append((folder / "controlnet" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.long
@pytest.mark.parametrize("file", ["two-cards.yaml", "fsdp.yaml", "deepspeed.yaml"])
def test_the_files_of_the_documentation_train_what_one_process_trains(command: list[str], file: str) -> None:
    if file.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="an option for several cards; install it to run this")
    words = [*command, "--set", "train.steps=4"]
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(APP_FOLDER / "docs" / file)]
    curves = []
    for how in ([sys.executable], [sys.executable, *launch]):
        done = subprocess.run([*how, *words], cwd=APP_FOLDER, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        curves.append([entry["loss"] for entry in the_run(command).metrics() if "loss" in entry])
        assert ("2 processes split the 2 images" in done.stdout) == (len(curves) == 2)
    assert len(curves[0]) == 4
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
