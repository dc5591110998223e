"""Adherence against the exact score of the bundled circles, over the checkpoints of a run.

exact.json is a real run: python -m benchmarks.adherence_exact tests/evaluation/curves/exact.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.adherence_exact import record, spearman
from engine.workspace.paths import Workspace

RECORDED = Path(__file__).with_name("curves") / "exact.json"


def check(found: dict[str, Any]) -> None:
    """Ranks agree, and the score rises clearly during training."""
    sets = found["sets"]
    assert len(sets) >= 8
    for name in ("obeys", "stand_in"):
        assert spearman([one[name] for one in sets], [one["iou"] for one in sets]) >= 0.9, name
    assert sets[0]["low"] < 0.15, "an untrained net cannot be told from one that does not listen"
    assert sets[-1]["low"] > sets[0]["high"], "a trained one can"
    assert all(one["low"] <= one["obeys"] <= one["high"] for one in sets)


def test_a_recorded_run() -> None:
    check(json.loads(RECORDED.read_text(encoding="utf-8")))


@pytest.mark.long
def test_a_current_run(tmp_path: Path) -> None:
    check(record(Workspace(tmp_path / "workspace"), steps=400, every=50, images=24))
