"""A real short run: the table of sizes, the net brought in again as a run and as a start, and all of it by command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.cli.main import main
from engine.data.dataset import Dataset
from engine.data.make_maps import make_all
from engine.errors import UserError
from engine.export import export
from engine.export.compare import Variant, compare
from engine.export.imported_run import import_as_run
from engine.export.quantization_check import QuantizationCheck
from engine.export.quantization_loss import keep_loss, read_losses
from engine.export.size_table import as_text, read_table
from engine.runs.run import Run
from engine.workspace.paths import Workspace
from tests.short_runs import RunFactory, train

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def trained(ready_workspace: Workspace, new_run: RunFactory) -> Run:
    """Four steps on edges, two checkpoints."""
    make_all(Dataset.open(ready_workspace.dataset_folder("pairs")), "canny", {})
    settings = {"validation.sampling_steps": 2, "validation.pictures": 2, "train.checkpoint_every": 2}
    run = new_run(**{"train.steps": 4, "model.clip_skip": 2, **settings})
    train(ready_workspace, run)
    return run


@pytest.mark.answers("Which precision, fp16 or bf16? Does bf16 harm the result?")
def test_size_against_quality(trained: Run, ready_workspace: Workspace) -> None:
    chosen = [Variant("half", "single_file", "fp16"), Variant("lora", "control_lora", "fp16", 32)]
    chosen.append(Variant("eighth", "single_file", "fp8"))
    lines: list[str] = []
    table = compare(
        ready_workspace,
        trained,
        trained.checkpoints()[-1],
        chosen=chosen,
        progress=lambda done, total, label: lines.append(f"{done}/{total} {label}"),
    )
    assert [row.title for row in table.rows] == ["checkpoint", "half", "lora", "eighth"]
    assert (table.score, table.pictures, table.step) == ("adherence", 2, 4)
    whole, half, _, eighth = table.rows
    assert half.megabytes == pytest.approx(whole.megabytes / 2, rel=0.2)
    assert eighth.megabytes < 0.4 * whole.megabytes
    assert half.loss == pytest.approx(whole.adherence - half.adherence) and abs(half.loss) < 0.1
    assert read_table(trained.exports) == table
    assert [path.name for path in trained.exports.iterdir()] == ["size_against_quality.json"]  # no files stay
    assert "half" in as_text(table) and lines[-1].startswith("3/4")
    being_written = trained.exports / ".comparing" / "file"
    being_written.parent.mkdir()
    being_written.touch()
    assert len(QuantizationCheck(ready_workspace, trained, trained.checkpoints()[-1]).calibration(2)) == 2
    assert being_written.exists(), "a comparison exports into this folder while it calibrates int8"


@pytest.mark.long
def test_the_loss_in_fp8_is_measured_once_and_decides(
    trained: Run, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.evaluation.adherence.MIN_SPAN", -9.0)  # this base's VAE shows no contours
    newest = trained.checkpoints()[-1]
    lines: list[str] = []
    how = QuantizationCheck(ready_workspace, trained, newest, progress=lambda done, total, label: lines.append(label))
    made = export(newest.folder, "single_file", trained.exports, "small", "fp8", "plain", quantization_check=how)
    (loss,) = read_losses(trained.exports)
    assert loss.text in made.checked and loss.pairs >= 2 and lines
    lines.clear()
    export(newest.folder, "single_file", trained.exports, "again", "fp8", "plain", quantization_check=how)
    assert not lines  # it is known
    keep_loss(trained.exports, replace(loss, written=replace(loss.written, value=loss.whole.low - 0.1)))
    with pytest.raises(UserError, match="would follow its control images less"):
        export(newest.folder, "single_file", trained.exports, "fell", "fp8", "plain", quantization_check=how)
    assert not list(trained.exports.glob("*fell*")) and not (trained.exports / ".comparing").exists()


def test_a_net_comes_back_as_a_run(trained: Run, ready_workspace: Workspace) -> None:
    made = export(trained.checkpoints()[-1].folder, "ldm", trained.exports, "mine", "fp32")
    run = import_as_run(ready_workspace, made.path, trained.config.model.base, name="back")
    assert run.completed and {name: trained.condition[name] for name in run.condition} == run.condition
    (checkpoint,) = run.checkpoints()
    assert (checkpoint.step, checkpoint.images_seen, checkpoint.resumable) == (4, 8, False)
    assert run.config.data.resolution == 64 and run.config.model.clip_skip == 2
    original = load_file(trained.checkpoints()[-1].folder / "controlnet" / WEIGHTS)
    back = load_file(checkpoint.folder / "controlnet" / WEIGHTS)
    assert all(torch.equal(weight, original[name]) for name, weight in back.items())
    again = export(checkpoint.folder, "single_file", run.exports, "again", "fp32")
    assert "equal to the checkpoint" in again.checked
    with pytest.raises(UserError, match="is not a ControlNet"):
        import_as_run(ready_workspace, trained.config.model.base + "/unet/diffusion_pytorch_model.safetensors", "demo")
    assert len(ready_workspace.run_folders()) == 2


@pytest.mark.parametrize("format", ["single_file", pytest.param("pth", marks=pytest.mark.long)])
def test_a_training_starts_from_a_file(
    trained: Run,
    ready_workspace: Workspace,
    new_run: RunFactory,
    format: str,
) -> None:
    made = export(trained.checkpoints()[-1].folder, format, trained.exports, "mine", "fp32")
    overrides = {"model.controlnet": str(made.path), "optim.learning_rate": 1e-12, "train.steps": 2}
    run = new_run(**overrides)
    train(ready_workspace, run, at_step={1: "pause"})
    assert run.last_step == 1
    made.path.unlink()  # a resume needs it no more
    with pytest.raises(UserError, match="was not found"):
        new_run(**overrides)
    train(ready_workspace, run)
    assert run.completed
    first, last = (load_file(r.checkpoints()[-1].folder / "controlnet" / WEIGHTS) for r in (trained, run))
    assert all(torch.allclose(weight, last[name], atol=1e-6) for name, weight in first.items())


def test_by_command(trained: Run, ready_workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["--workspace", str(ready_workspace.root)]
    assert main([*start, "merge", trained.name, "--kind", "ema", "--decay", "0.5"]) == 0
    assert "average of steps 2, 4" in capsys.readouterr().out
    assert main([*start, "merge", trained.name, "--steps", "3"]) == 2
    assert main([*start, "export", trained.name, "--merged", "ema-000002-000004", "--name", "again"]) == 0
    assert main([*start, "export", trained.name, "--format", "control_lora", "--rank", "32", "--name", "small"]) == 0
    assert main([*start, "trim", trained.name]) == 0
    assert "1 checkpoint trimmed" in capsys.readouterr().out
    (lora,) = trained.exports.glob("small*.safetensors")
    base = str(trained.config.model.base)
    assert main([*start, "import-net", str(lora), "--base", base, "--name", "small"]) == 0
    assert "canny" in capsys.readouterr().out
    assert main([*start, "import-net", str(trained.folder / "run.json"), "--base", base]) == 2
    assert Path(lora).exists()
