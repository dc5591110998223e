"""Counts of images by folder and by word, and when the sizes of folders are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.cli.main import main
from engine.data.dataset import Dataset
from engine.data.doctor.check import check
from engine.data.doctor.check_store import CheckStore
from engine.data.doctor.classes import FOLDER_SIZES, FOLDERS, WORDS, ClassCounts, counts_in
from engine.data.samples import Sample
from engine.data.scan import scan_folder
from engine.workspace.paths import Workspace
from ui.dataset import check_jobs


def counted(sizes: dict[str, int]) -> ClassCounts:
    counts = ClassCounts()
    for folder, size in sizes.items():
        for number in range(size):
            counts.add(Sample(f"{folder}/{number}.png", Path("x"), "", None, 64, 64))
    return counts


@pytest.mark.parametrize(
    ("sizes", "reported"),
    [
        ({"cats": 10, "dogs": 30}, True),
        ({"cats": 11, "dogs": 30}, False),
        ({"cats": 10}, False),
        ({f"scene {number}": number + 1 for number in range(51)}, False),
        ({"00000": 1000, "00001": 3}, False),
    ],
)
def test_folders_of_very_different_sizes(sizes: dict[str, int], reported: bool) -> None:
    hits = list(counted(sizes).hits())
    assert [hit.key.split("/")[0] for hit in hits] == (list(sizes) if reported else [])
    assert all(hit.finding == FOLDER_SIZES.name for hit in hits) and not FOLDER_SIZES.excludable


def test_a_check_counts_folders_and_words(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(1)
    for number in range(8):
        path = tmp_path / "set" / ("cats" if number < 2 else "dogs") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (64, 64, 3), np.uint8)).save(path)
        text = f"A {'<cat>' if number < 2 else 'dog'} and the dog, no. {number}"
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
    dataset = Dataset.create(workspace, "set", scan_folder(tmp_path / "set"))
    assert check_jobs.class_counts(dataset) == ""
    check(dataset, 64, workers=1)
    about = CheckStore(dataset.folder).about()
    assert counts_in(about, FOLDERS) == [("dogs", 6), ("cats", 2)]
    assert dict(counts_in(about, WORDS)) == {"dog": 8, "cat": 2, "no": 8}
    details = [hit.detail for hit in CheckStore(dataset.folder).hits(FOLDER_SIZES.name)]
    assert details == ["cats: 2 images, 25.0%", "dogs: 6 images, 75.0%"]
    shown = check_jobs.class_counts(dataset)
    assert "dogs <b>6</b>, cats <b>2</b>" in shown and "dog <b>8</b>" in shown
    assert main(["--workspace", str(workspace.root), "check", "set", "--resolution", "64"]) == 0
    printed = capsys.readouterr().out
    assert "Images by folder: dogs 6, cats 2\n" in printed and "word in the caption: dog 8, no 8, cat 2" in printed


def test_results_of_an_earlier_version_have_no_counts() -> None:
    assert counts_in({"when": "2026-01-01"}, WORDS) == []
