from __future__ import annotations

from pathlib import Path

import pytest

from engine.data.dataset import Dataset
from engine.data.doctor.check import check
from engine.data.doctor.check_store import CheckStore
from engine.data.scan import scan_folder
from engine.workspace.paths import Workspace
from tests.data.doctor import planted


def found(dataset: Dataset) -> dict[str, set[str]]:
    store = CheckStore(dataset.folder)
    return {finding: {hit.key for hit in store.hits(finding)} for finding in store.counts()}


def compare(found: dict[str, set[str]], expected: dict[str, set[str]]) -> None:
    missed = {f: keys - found.get(f, set()) for f, keys in expected.items() if keys - found.get(f, set())}
    false = {f: keys - expected.get(f, set()) for f, keys in found.items() if keys - expected.get(f, set())}
    assert (missed, false) == ({}, {})
    assert all(len(keys) >= 3 for keys in expected.values())


@pytest.mark.answers("Some images are web pages, duplicates, or grey")
def test_every_planted_image_fault_is_found_and_nothing_else(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_hash(dataset: Dataset, count: int, **_: object) -> list[str]:
        """The faults are planted on images that this seed holds out."""
        return [sample.key for sample in dataset.held_out(count).held_out]

    monkeypatch.setattr("engine.data.doctor.check.choose", by_hash)
    faults = planted.plant_images(tmp_path / "pictures")
    dataset = Dataset.create(workspace, "pictures", scan_folder(faults.folder))
    check(dataset, planted.SIDE, planted.HELD_OUT, workers=1)
    compare(found(dataset), faults.expected)


QUICK = ("canny",)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.long) for kind in planted.PAIR_TYPES]
)
def test_every_planted_pair_fault_is_found_and_nothing_else(kind: str, workspace: Workspace, tmp_path: Path) -> None:
    faults = planted.plant_pairs(tmp_path / kind, kind)
    dataset = Dataset.create(workspace, kind, scan_folder(faults.folder))
    check(dataset, 200, workers=1)
    compare(found(dataset), faults.expected)
    hits = sorted((hit.key, hit.detail) for hit in CheckStore(dataset.folder).hits("map_shifted"))
    for (_, detail), (dx, dy) in zip(hits, planted.SHIFTS, strict=True):
        for amount, words in ((dx, ("far right", "far left")), (dy, ("low", "high"))):
            close = [f"{abs(amount) + play} px too {words[amount < 0]}" for play in (-1, 0, 1)]
            assert amount == 0 or any(text in detail for text in close), (detail, dx, dy)
