"""The command line: the same engine, exit codes, and words for what goes wrong."""

from __future__ import annotations

import io
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.cli import output
from engine.cli.main import EXIT_INTERRUPTED, EXIT_PROBLEM, main
from engine.cli.options import parse_settings
from engine.config import changeable, parse
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.jobs.events import PhaseChanged, PreviewMade, RunOpened, StepDone, Waiting
from engine.runs.run import Run
from engine.training import faults
from engine.training.new_run import create_run
from engine.training.state import TrainState
from engine.workspace.paths import Workspace
from tests.forked import Forks


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "ws"


def train_settings(tiny_base: Path, steps: int = 3) -> list[str]:
    pairs = {
        "train.steps": steps,
        "train.batch_size": 2,
        "data.resolution": 64,
        "data.held_out": 2,
        "validation.every": 0,
        "train.precision": "fp32",
    }
    return ["--base", str(tiny_base), *(word for name, value in pairs.items() for word in ("--set", f"{name}={value}"))]


def test_from_a_folder_to_a_file(root: Path, paired_folder: Path, tiny_base: Path, capsys) -> None:
    start = ["--workspace", str(root)]
    assert main([*start, "scan", str(paired_folder), "--name", "pairs"]) == 0
    assert main([*start, "extract", "pairs", "--type", "canny", "--set", "low=50"]) == 0
    assert main([*start, "train", "--dataset", "pairs", "--preset", "cpu", *train_settings(tiny_base)]) == 0
    run = Run(Workspace(root).run_folders()[0])
    assert run.completed
    assert run.condition == {
        "type": "canny",
        "parameters": {**run.condition["parameters"], "low": 50},
        "side": 64,  # of the images that it was trained on
        "varied": None,
    }
    assert run.origins["train.steps"] == "you"
    assert main([*start, "export", run.name, "--name", "mine"]) == 0
    files = [path for path in run.exports.iterdir() if path.suffix == ".safetensors"]
    assert len(files) == 1
    assert str(files[0]) in capsys.readouterr().out
    assert main([*start, "timelapse", run.name]) == EXIT_PROBLEM, "this run has no previews"
    assert "Try: " in capsys.readouterr().err


def test_the_doctor_reports(root: Path, capsys) -> None:
    assert main(["--workspace", str(root), "doctor"]) == 0
    text = capsys.readouterr().out
    assert "torch" in text and "Free disk" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scan", "/no/such/folder"], "/no/such/folder"),
        (["resume", "nothing"], "no run called nothing"),
        (["train", "--dataset", "nothing", "--preset", "cpu"], "no dataset called nothing"),
        (["train", "missing.toml", "--preset", "cpu"], "missing.toml"),
        (["train", "--preset", "cpu", "--set", "train.stepz=1"], "train.stepz is not a setting"),
        (["train", "--preset", "cpu", "--set", "train.steps"], "Write NAME=VALUE"),
    ],
)
def test_a_mistake_is_named_with_what_to_try(root: Path, arguments: list[str], words: str, capsys) -> None:
    assert main(["--workspace", str(root), *arguments]) == EXIT_PROBLEM
    error = capsys.readouterr().err
    assert words in error
    assert "Try:" in error
    assert "Traceback" not in error


def test_a_run_whose_dataset_is_gone_is_not_resumed_and_says_so(
    root: Path, paired_folder: Path, tiny_base: Path, capsys
) -> None:
    workspace = Workspace(root)
    Dataset.create(workspace, "pairs", scan_folder(paired_folder))
    run = create_run(workspace, parse({"model": {"base": str(tiny_base)}, "data": {"dataset": "pairs"}}), {})
    workspace.dataset_folder("pairs").rename(root / "elsewhere")
    assert main(["--workspace", str(root), "resume", run.name]) == EXIT_PROBLEM
    said = capsys.readouterr().err
    assert f"{run.name} cannot continue." in said and "no dataset called pairs" in said and "renamed or deleted" in said


def test_a_run_that_waits_for_the_disk_shows_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "SECONDS_BETWEEN_LINES", 0.0)
    out = io.StringIO()
    console = output.EventPrinter(out)
    console.event(RunOpened(Path("run"), "run", 0, 40, 4))
    console.event(PhaseChanged("running"))
    console.event(StepDone(1, 4, 0.5, 1e-5, 1.0))
    assert "Step 1 of 40, loss 0.5000, about 39 s left" in out.getvalue()
    console.event(Waiting("The checkpoint of step 1 is waiting for the disk."))
    assert out.getvalue().splitlines()[-1] == "     Step 1 of 40, waiting"
    console.event(PreviewMade(1, Path("previews"), (), ()))
    assert out.getvalue().splitlines()[-1] == "     Step 1: preview images drawn", "those of a LoRA have no score"


def test_the_help_of_resume_names_what_may_be_changed(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["resume", "--help"])
    words = "".join(capsys.readouterr().out.split())
    assert "Oneof:" + ",".join(changeable()) in words, "as the settings declare it"


def test_an_empty_folder_is_named(root: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["--workspace", str(root), "scan", str(tmp_path / "empty")]) == EXIT_PROBLEM
    assert "empty" in capsys.readouterr().err


def test_import_reports_what_it_found_to_people_and_to_programs(root: Path, tmp_path: Path, photos, capsys) -> None:
    for name in ("coffee", "rocket"):
        Image.fromarray(photos[name]).resize((64, 64)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,text\ncoffee.jpg,a cup\nrocket.jpg,\ngone.jpg,x\n", "utf-8")
    start = ["--workspace", str(root), "import", str(tmp_path), "--name", "two"]
    assert main(start) == 0
    output = capsys.readouterr().out
    assert "two: 2 images (images listed in metadata.csv), 1 caption" in output and "gone.jpg" in output
    assert main([*start, "--json", "--max", "5", "--min-width", "10", "--no-respect-robots"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["pictures"], result["captioned"], result["problems"], result["layout"]) == (2, 1, 1, "metadata_csv")
    assert main([*start, "--max", "-1"]) == EXIT_PROBLEM
    assert "max_pictures" in capsys.readouterr().err


def test_a_workspace_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="Choose another folder"):
        Workspace(tmp_path / "file" / "ws")


def test_settings_are_read_as_toml_or_text() -> None:
    assert parse_settings(["train.steps=5", "train.precision=bf16", "optim.learning_rate=1e-4"]) == {
        "train": {"steps": 5, "precision": "bf16"},
        "optim": {"learning_rate": 1e-4},
    }


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_saves_and_ends(
    root: Path,
    paired_folder: Path,
    tiny_base: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    """In this process, which spares another one the loading of the libraries."""
    if not hasattr(signal, name):
        pytest.skip("Windows has no such signal")
    number, train_step = getattr(signal, name), faults.train_step

    def signalled(state: TrainState) -> Any:
        if state.step == 3:
            signal.raise_signal(number)
        return train_step(state)

    monkeypatch.setattr(faults, "train_step", signalled)
    main(["--workspace", str(root), "scan", str(paired_folder), "--name", "pairs"])
    before = signal.signal(number, signal.SIG_IGN)  # unheard, it would end the tests
    try:
        words = ["--workspace", str(root), "train", "--dataset", "pairs", "--preset", "cpu"]
        assert main([*words, *train_settings(tiny_base, steps=20)]) == EXIT_INTERRUPTED
        assert signal.getsignal(number) == signal.SIG_IGN, "as it was before"
    finally:
        signal.signal(number, before)
    assert "then saving" in capsys.readouterr().err
    run = Run(Workspace(root).run_folders()[0])
    assert run.ending == "paused"
    assert run.last_step == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one child")
def test_ctrl_c_saves_and_ends(root: Path, paired_folder: Path, tiny_base: Path, forks: Forks, tmp_path: Path) -> None:
    """What libraries print while they are loaded: tests/ui/test_warm_up.py."""
    main(["--workspace", str(root), "scan", str(paired_folder), "--name", "pairs"])
    words = ["--workspace", str(root), "train", "--dataset", "pairs", "--preset", "cpu"]
    printed, errors = tmp_path / "stdout", tmp_path / "stderr"
    child = forks.popen("engine.cli", *words, *train_settings(tiny_base, steps=100_000), output=printed, errors=errors)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            folders = Workspace(root).run_folders()
            if folders and len(Run(folders[0]).metrics()) >= 3:
                break
            assert child.poll() is None, errors.read_text(encoding="utf-8")
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == EXIT_INTERRUPTED
    finally:
        child.kill()
    said = errors.read_text(encoding="utf-8").splitlines()
    lines = [line for line in said if line and not line.startswith("Loading weights: ")]  # a progress bar
    lines = [line for line in lines if "no better than chance" not in line]  # of the random base
    assert len(lines) == 1 and "then saving" in lines[0], "libraries print nothing that a user who trains cannot use"
    run = Run(Workspace(root).run_folders()[0])
    assert run.ending == "paused"
    assert run.last_step == max(entry["step"] for entry in run.metrics())
