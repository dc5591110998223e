"""The full evaluation of a checkpoint: images, report, and cleaning up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.cli.main import main
from engine.errors import UserError
from engine.evaluation import report
from engine.evaluation.effect_job import effect_folder, measure_effect
from engine.evaluation.evaluate import evaluate, report_folder
from engine.jobs.control import Cancelled, Control
from engine.runs.run import Run
from engine.workspace.paths import Workspace
from tests.evaluation import tiny_clip


def test_the_report_lists_results_and_what_is_missing(
    prepared: Run, own_workspace: Workspace, tiny_base: Path, tmp_path: Path
) -> None:
    first, second = prepared.checkpoints()
    found = evaluate(own_workspace, prepared, first, pairs=4)
    assert found["pairs"] == {"held_out": 3, "trained_on": 1}
    assert found["measure"] == "likeness" and "iou" in found["scores"]
    assert found["obeys"]["pairs"] == 3 and found["obeys"]["low"] <= found["obeys"]["value"] <= found["obeys"]["high"]
    assert "not on this computer" in found["clip"]["missing"]
    assert found["control_effect"]["moved"] > 0, "the loud net's answer depends on its map"
    assert min(found["seed_diversity"].values()) > 0
    folder = report_folder(prepared, 10)
    assert json.loads((folder / report.JSON).read_text(encoding="utf-8"))["rows"] == found["rows"]
    page = (folder / report.HTML).read_text(encoding="utf-8")
    assert "tiny, step 10" in page and all(f"src='{name}'" in page for name, _ in found["effect_pictures"])
    assert Image.open(folder / "00-row.webp").size == (4 * 64, 64)
    assert Image.open(folder / "effect-00.webp").size == (5 * 64, 64)

    clip = tiny_clip.write(tmp_path / "clip", tiny_base)
    again = evaluate(own_workspace, prepared, second, pairs=3, clip_model=str(clip))
    assert {"score", "cmmd", "cmmd_without_control", "score_of_true_pictures"} <= set(again["clip"])
    assert again["compared"]["step"] == 10
    assert again["compared"]["value"] == again["compared"]["low"] == again["compared"]["high"] == 0, "the same weights"
    assert any(name == "CLIP score" for name, _ in report.facts(again))


def test_the_effect_test_alone_uses_the_first_held_out_pairs(prepared: Run, own_workspace: Workspace) -> None:
    found = measure_effect(own_workspace, prepared, prepared.checkpoints()[0])
    folder = effect_folder(prepared.folder, 10)
    assert json.loads((folder / "effect.json").read_text(encoding="utf-8"))["scores"] == found["scores"]
    assert found["pairs"] == 3 and found["moved"] > 0
    assert Image.open(folder / "effect-02.webp").size == (5 * 64, 64)
    assert report.effect_text(found).startswith(
        f"{found['value']:.2f}: right map".removeprefix("-" * (abs(found["value"]) < 0.005))
    )


def test_cancelling_leaves_no_files(prepared: Run, own_workspace: Workspace) -> None:
    control = Control()
    folder = prepared.folder / "evaluation"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*")} if folder.exists() else {}
    with pytest.raises(Cancelled):
        evaluate(
            own_workspace,
            prepared,
            prepared.checkpoints()[0],
            2,
            token=control.token,
            progress=lambda *_: control.cancel(),
        )
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*")} == before


def test_from_the_command_line(prepared: Run, own_workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["--workspace", str(own_workspace.root), "evaluate", prepared.name, "--pairs", "2"]
    assert main([*start, "--checkpoint", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["pairs"]["held_out"]) == (20, 2)
    assert main([*start, "--checkpoint", "15"]) == 2
    output = capsys.readouterr().err
    assert "no checkpoint of step 15" in output and "10, 20" in output


def test_a_missing_dataset_is_reported(own_workspace: Workspace, prepared: Run) -> None:
    other = Run(prepared.folder)
    other.config = prepared.config.model_copy(
        update={"data": prepared.config.data.model_copy(update={"dataset": "gone"})}
    )
    with pytest.raises(UserError, match="gone"):
        evaluate(own_workspace, other, prepared.checkpoints()[0], 2)


def made_up(**changes: Any) -> dict[str, Any]:
    """A report without any fault."""
    whole = {"value": 0.7, "low": 0.6, "high": 0.8, "pairs": 64}
    return {
        "run": "r",
        "step": 100,
        "pairs": {"held_out": 64, "trained_on": 0},
        "measure": "adherence",
        "obeys": whole,
        "obeys_on_training_pairs": None,
        "scores": {"adherence": 0.5},
        "scores_without_control": {"adherence": 0.1},
        "control_effect": {"value": 0.4, "scores": {"right": 0.5, "blank": 0.1, "swapped": 0.1}, "moved": 20.0},
        "colour": {
            "against_without_control": {"saturation": 1.0, "contrast": 1.0},
            "against_true_pictures": {"saturation": 1.0, "contrast": 1.0},
        },
        "seed_diversity": {"with_control": 20.0, "without_control": 30.0},
        "nearest": {"drawn": [], "true_pictures": 0, "looked_at": 10, "of": 20, "suspicious": False},
        "clip": {"missing": "no model"},
        "compared": None,
        "pictures": [],
        "effect_pictures": [],
    } | changes


def test_a_good_report_has_no_warning_and_each_fault_has_one() -> None:
    assert report.warnings(made_up()) == []
    assert "strong" in report.headline(made_up())
    faults: list[dict[str, Any]] = [
        {"colour": {"against_without_control": {"saturation": 1.4, "contrast": 1.0}, "against_true_pictures": {}}},
        {"seed_diversity": {"with_control": 1.0, "without_control": 30.0}},
        {"nearest": {"drawn": [{}], "true_pictures": 0, "looked_at": 9, "of": 9, "suspicious": True}},
        {"clip": {"cmmd": 3.0, "cmmd_without_control": 1.0}},
    ]
    for fault in faults:
        assert len(report.warnings(made_up(**fault))) == 1, fault
    assert "cannot be measured" in report.headline(made_up(obeys=None))


def test_captions_are_escaped_on_the_page() -> None:
    page = report.page(made_up(run="<b>", pictures=[("00-row.webp", "<script>")]))
    assert "<script>" not in page and "&lt;script&gt;" in page and "<h1>&lt;b&gt;" in page
