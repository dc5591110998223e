"""Loss weights of images: from a list's column or another trainer's config, kept in the index."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.dataset import Dataset
from engine.data.index import Index
from engine.data.scan import ScanReport, scan_folder
from engine.workspace.paths import Workspace

ROWS = [("a", 2), ("b", "0.5"), ("c", None), ("d", 0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for number, (name, _) in enumerate(ROWS):
        Image.fromarray(np.full((64, 64, 3), 40 * number, np.uint8)).save(source / f"{name}.png")
    return source


def listed(folder: Path, column: str, rows: list[tuple[str, object]] = ROWS) -> None:  # noqa: B006
    lines = [json.dumps({"file_name": f"{name}.png", "text": name, column: value}) for name, value in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def weights(report: ScanReport) -> dict[str, float]:
    return {sample.image.stem: sample.weight for sample in report.samples}


def test_a_column_of_a_list(workspace: Workspace, folder: Path) -> None:
    listed(folder, "loss_weight")
    report = scan_folder(folder)
    assert weights(report) == {"a": 2, "b": 0.5, "c": 1, "d": 0} and not report.problems
    assert not any("Unused" in sentence for sentence in report.notes)
    dataset = Dataset.create(workspace, "weighted", report)
    assert {sample.image.stem: sample.weight for sample in dataset.samples()} == weights(report)


def test_a_column_with_another_meaning_is_used_only_if_the_user_says_so(folder: Path) -> None:
    listed(folder, "weight")
    assert set(weights(scan_folder(folder)).values()) == {1}
    assert weights(scan_folder(folder, asked={"weight": "weight"}))["a"] == 2


def test_decimal_commas_of_a_csv(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name;text;loss_weight\na.png;a;1,5\nb.png;b;\n", encoding="utf-8")
    assert weights(scan_folder(folder)) == {"a": 1.5, "b": 1}


@pytest.mark.parametrize("value", ["heavy", -1, 101, "nan", True, [2]])
def test_what_is_no_weight_is_told(folder: Path, value: object) -> None:
    listed(folder, "loss_weight", [*ROWS[:3], ("d", value)])
    report = scan_folder(folder)
    assert set(weights(report)) == {"a", "b", "c"}
    (problem,) = report.problems
    assert problem.what == "Line 4 of metadata.jsonl cannot be used."
    assert problem.why.startswith("Its loss_weight is not a number from 0 to 100: ")


def test_concepts_of_onetrainer(folder: Path) -> None:
    concepts = [{"name": "cats", "path": str(folder), "loss_weight": 3.0, "text": {}, "image": {}}]
    (folder / "concepts.json").write_text(json.dumps(concepts), encoding="utf-8")
    report = scan_folder(folder / "concepts.json")
    assert set(weights(report).values()) == {3.0} and not any("loss_weight" in note for note in report.notes)


def test_datasets_of_before_have_the_fingerprint_and_the_weights_that_they_had(
    workspace: Workspace, folder: Path
) -> None:
    dataset = Dataset.create(workspace, "plain", scan_folder(folder))
    path = dataset.folder / "index.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE samples DROP COLUMN weight")
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    assert {sample.weight for sample in Index(path).samples()} == {1.0}
    listed(folder, "loss_weight", [(name, 1) for name, _ in ROWS])
    equal = Dataset.create(workspace, "equal", scan_folder(folder))
    listed(folder, "other", [(name, 1) for name, _ in ROWS])
    none = Dataset.create(workspace, "none", scan_folder(folder))
    listed(folder, "loss_weight")
    unlike = Dataset.create(workspace, "unlike", scan_folder(folder))
    assert equal.fingerprint == none.fingerprint != unlike.fingerprint
