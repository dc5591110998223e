"""The benchmark for graphics cards: it continues where it was stopped, and its results become tables."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_table
from benchmarks.precision import interval, table
from engine.workspace.paths import APP_FOLDER

MEMORY: dict[str, Any] = {
    "reserved": {"preparing": 3.0, "training": 5.5, "pictures": 4.0},
    "allocated": {"preparing": 2.9, "training": 5.2, "pictures": 3.8},
    "foreseen": {"preparing": 3.1, "training": 5.4, "pictures": 4.1},
    "context": 0.5,
    "needs": 6.6,
    "ram": 4.0,
    "ram_foreseen": 4.2,
    "checkpoint": 2.0,
    "checkpoint_foreseen": 2.0,
    "seconds_per_step": 0.4,
    "stall": 0.012,
    "rungs": [],
    "said": [],
}


def start(monkeypatch: pytest.MonkeyPatch, out: Path, *more: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(out), "--device", "cpu", *more])
    assert gpu.main() == 0


def test_it_continues_where_it_was_stopped_and_lists_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: list[str] = []

    def take(item: str, options: argparse.Namespace, seconds: float) -> dict[str, Any] | None:
        taken.append(item)
        return None if len(taken) == 3 else {"error": "no"} if item.endswith("12gb") else MEMORY

    monkeypatch.setattr(gpu, "take", take)
    start(monkeypatch, tmp_path, "--parts", "memory/sd15")
    assert "left: memory/sd15/6gb" in capsys.readouterr().out
    start(monkeypatch, tmp_path, "--parts", "memory/sd15")
    assert taken[5:] == ["memory/sd15/6gb"] and "all done" in capsys.readouterr().out
    start(monkeypatch, tmp_path, "--parts", "memory/sd15", "--again")
    assert taken[6:] == ["memory/sd15/12gb"], "with --again, failed items are measured again"
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| sd15, 8gb | 6.00 | 6.60 | +10% |" in text and "- memory/sd15/12gb: no" in text
    assert json.loads((tmp_path / "memory-sd15-8gb.json").read_text(encoding="utf-8")) == MEMORY


@pytest.mark.parametrize("tiny", [True, False])
def test_every_item_has_its_own_file_and_a_function_that_measures_it(tiny: bool) -> None:
    from benchmarks.gpu_parts import CARDS, KINDS, RESUMED
    from benchmarks.step import ABLATIONS

    names = gpu.items(tiny)
    assert len({gpu.file_of(Path(), name) for name in names}) == len(names)
    for name in names:
        kind, *rest = name.split("/")
        assert kind in KINDS
        assert kind != "ablation" or f"ours, {rest[0]}" in ABLATIONS
        assert kind != "resume" or rest[0] in RESUMED
        assert kind != "memory" or rest[1] in CARDS


def test_speed_is_compared_with_the_recipe_over_all_rounds() -> None:
    one = {"images_per_second": 2.0, "reserved": 7.0, "waiting": 0.001, "seconds_per_step": 1.0}
    found = {f"speed/theirs/{n}": one for n in (1, 2, 3)}
    found |= {f"speed/ours/{n}": {**one, "images_per_second": 5.0, "save": 10.0} for n in (1, 2, 3)}
    found["ablation/channels last"] = {**one, "images_per_second": 4.0, "said": []}
    text = gpu_table.tables(found)
    assert "| ours | 3 | 5.00 (5.00 to 5.00) | 2.50 | 7.00 | 0.10% | 10.0 | 1.96% |" in text
    assert "| channels last | 4.00 | 80% |" in text


def test_an_interval_contains_the_true_mean_and_shrinks_with_the_pairs() -> None:
    gaps = [[0.1, -0.1, 0.05, -0.05] * 10, [0.12, -0.08, 0.05, -0.05] * 10]
    low, high = interval(gaps)
    assert low < 0.005 < high
    few = interval([row[:8] for row in gaps])
    assert few[1] - few[0] > high - low


def test_precisions_are_compared_seed_by_seed() -> None:
    rows = [{"own": 0.8, "other": 0.1, "best": 0.9}] * 4
    plain = {"colours": [1.0], "normalising": rows, "held_out_loss": 0.005, "gain": 0.008}
    runs = [
        {"kind": kind, "seed": seed, "iou": [level + 0.01 * seed] * 4, **plain}
        for kind, level in (("fp32", 0.9), ("bf16", 0.88))
        for seed in (1, 2)
    ]
    lines = table(runs).splitlines()
    assert lines[2].startswith("| fp32 | 2 | 0.915 | 0.910, 0.920 |  |")
    assert "| -0.020 (-0.020 to -0.020) |" in lines[3]


@pytest.mark.long
def test_the_rehearsal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=APP_FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("all done") and "## Failed" not in done.stdout
