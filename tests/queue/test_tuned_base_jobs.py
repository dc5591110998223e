"""Jobs on what a run has taught its base, or on LoRA files: the same by themselves, and in the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.cli.main import EXIT_PROBLEM, main
from engine.data.dataset import Dataset
from engine.data.make_maps import make_all
from engine.jobs.control import Control
from engine.queue.folder import QueueFolder
from engine.queue.kinds import job_of
from engine.queue.tuned_base_jobs import ExportBase, MeasureTransfer, TrainOnTunedBase
from engine.runs.run import Run
from engine.workspace.paths import Workspace
from tests.short_runs import train
from tests.training.test_lora import images_only, run_of  # noqa: F401


def words(**settings: Any) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


ONE_STEP = words(train__steps=1, train__batch_size=2, train__precision="fp32", validation__every=0)


def test_a_controlnet_is_trained_on_a_lora_by_the_command_and_by_the_queue(
    images_only: Workspace,  # noqa: F811
    tiny_base: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = ["--workspace", str(images_only.root)]
    lora = run_of(images_only, tiny_base, train={"steps": 1}, validation={"check_every": 0})
    train(images_only, lora)
    asked = ["train", "--on", lora.name, "--preset", "cpu", *ONE_STEP]
    assert main([*start, *asked]) == EXIT_PROBLEM and "condition maps" in capsys.readouterr().err
    dataset = Dataset.open(images_only.dataset_folder("images"))
    make_all(dataset, "canny", {}, None)
    assert main([*start, *asked]) == 0
    (file,) = lora.exports.glob("*.safetensors")
    assert f"On {file}" in capsys.readouterr().out
    (net,) = (Run(folder) for folder in images_only.run_folders() if folder != lora.folder)
    assert (net.config.model.base, net.config.model.ingredients) == (str(tiny_base), str(file))
    assert net.completed and (net.config.data.dataset, net.config.tuning.what) == ("images", "controlnet")

    assert main([*start, "queue", "add", *asked]) == 0
    (entry,) = QueueFolder(images_only).waiting()
    job = job_of(entry)
    assert isinstance(job, TrainOnTunedBase) and entry.title == f"Training a ControlNet on {lora.name}"
    assert job.begun(images_only, entry.id) is None
    made = job.do(images_only, entry.id, Control().token, lambda event: None)
    curves = job.begun(images_only, entry.id)
    assert curves is not None and curves.step == 1
    queued = Run(images_only.run_folder(made.run))
    assert queued.completed and queued.config == net.config and len(list(lora.exports.iterdir())) == 2
    assert job.do(images_only, entry.id, Control().token, lambda event: None).run == made.run, "found by its mark"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["train", "--on", "run", "--base", "demo"], "--on cannot be used with --from-run or --base"),
        (["train", "--on", "run", "--from-run", "other"], "--on cannot be used with --from-run or --base"),
        (["trial", "--on", "run"], "--on cannot be queued"),
        (["transfer", "run", "style.safetensors:1000"], "must be between"),
        (["bases", "export", "demo", "--format", "floppy"], "there is no format floppy of bases"),
    ],
)
def test_what_cannot_be_queued_is_said_at_once(
    workspace: Workspace, line: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--workspace", str(workspace.root), "queue", "add", *line]) == EXIT_PROBLEM
    assert said in capsys.readouterr().err and QueueFolder(workspace).entries() == []


def test_files_of_the_current_folder_are_found_from_elsewhere(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("style.safetensors").touch()
    add = ["--workspace", str(workspace.root), "queue", "add"]
    assert main([*add, "transfer", "run", "style.safetensors:0.5", "word.pt", "--checkpoint", "20"]) == 0
    assert main([*add, "bases", "export", "demo + a.safetensors", "--format", "diffusers", "--out", "bases"]) == 0
    transfer, base = (job_of(entry) for entry in QueueFolder(workspace).waiting())
    assert transfer == MeasureTransfer(run="run", files=f"{tmp_path}/style.safetensors:0.5\nword.pt", checkpoint=20)
    folder = str(tmp_path / "bases")
    assert base == ExportBase(base="demo + a.safetensors", format="diffusers", folder=folder)


def test_a_base_is_written_by_its_job(workspace: Workspace, tiny_base: Path) -> None:
    job = ExportBase(base=str(tiny_base), format="diffusers", precision="fp32", name="mine")
    made = job.do(workspace, "", Control().token, lambda event: None)
    assert Path(made.where).parent == workspace.models and made.where in made.words and "mine" in made.where
