"""Does a ControlNet obey on its base with a LoRA in it?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from engine.cli.main import EXIT_PROBLEM, main
from engine.errors import UserError
from engine.evaluation import transfer_job
from engine.evaluation.transfer_job import measure_transfer
from engine.evaluation.transfer_report import JSON, transfer_folder, transfer_text
from engine.families.registry import detect
from engine.jobs.control import Control
from engine.queue.tuned_base_jobs import MeasureTransfer
from engine.runs.run import Run
from engine.workspace.paths import Workspace
from tests.bases import lora_files


@pytest.fixture
def lora(tiny_base: Path, tmp_path: Path) -> Path:
    """A LoRA file for the tiny base."""
    denoiser = detect(str(tiny_base)).load_denoiser(str(tiny_base), torch.float32)
    path = tmp_path / "style.safetensors"
    save_file(lora_files.kohya("lora_unet_", lora_files.factors(denoiser)), path)
    return path


def test_the_same_pairs_are_drawn_with_and_without_the_files(
    prepared: Run, own_workspace: Workspace, lora: Path
) -> None:
    checkpoint = prepared.checkpoints()[-1]
    found = measure_transfer(own_workspace, prepared, checkpoint, f"{lora}:2")
    assert (found["pairs"], found["files"]) == (3, [f"{lora}:2"])
    folder = transfer_folder(prepared.folder, checkpoint.step)
    (name, _), *_ = found["rows"]
    row = np.asarray(Image.open(folder / name))
    assert row.shape == (64, 192, 3) and not np.array_equal(row[:, 64:128], row[:, 128:])
    text = transfer_text(found)
    assert "with style.safetensors:2" in text or "compare them by eye" in text
    job = MeasureTransfer(run=prepared.name, files=f"{lora}:0", checkpoint=20)
    report = job.do(own_workspace, "", Control().token, lambda event: None)
    unchanged = json.loads((folder / JSON).read_text(encoding="utf-8"))
    assert unchanged["own"] == unchanged["other"], "weight 0 is the base itself"
    assert report.words == f"Step 20: {transfer_text(unchanged)}" and report.where == str(folder)


def test_the_command_line_prints_the_sentence(
    prepared: Run, own_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"files": ["style.safetensors:0.5"], "own": None, "other": None, "change": None}
    monkeypatch.setattr(transfer_job, "measure_transfer", lambda *given: found | {"files": [given[3]]})
    asked = ["--workspace", str(own_workspace.root), "transfer", prepared.name, "style.safetensors:0.5"]
    assert main([*asked, "--checkpoint", "10"]) == 0
    assert "Step 10: Drawn with style.safetensors:0.5." in capsys.readouterr().out
    assert main([*asked, "--checkpoint", "11"]) == EXIT_PROBLEM


def test_a_list_without_files_is_refused(prepared: Run, own_workspace: Workspace) -> None:
    checkpoint = prepared.checkpoints()[-1]
    with pytest.raises(UserError, match="No LoRA or embedding file is named"):
        measure_transfer(own_workspace, prepared, checkpoint, " \n")
    with pytest.raises(UserError, match="must be between"):
        measure_transfer(own_workspace, prepared, checkpoint, "a.safetensors:1000")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((-0.05, 0.05), "obeys as well"),
        ((-0.003, -0.001), "obeys as well"),
        ((-0.4, -0.1), "obeys less"),
        ((0.1, 0.4), "even better"),
    ],
)
def test_the_interval_of_the_difference_decides_the_words(change: tuple[float, float], words: str) -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    between = {"value": sum(change) / 2, "low": change[0], "high": change[1]}
    found = {"files": ["/a/style.safetensors"], "own": figure, "other": figure, "change": between, "pairs": 8}
    assert words in transfer_text(found) and "style.safetensors" in transfer_text(found)
    assert "by eye" in transfer_text(found | {"change": None})
