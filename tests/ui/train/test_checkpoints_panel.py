"""The list of checkpoints: stars, disk usage, unusable ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.jobs.events import DiskSpace
from engine.runs.checkpoints import broken_checkpoints, list_checkpoints
from tests.checkpoint_folder import write_checkpoint
from ui.train.checkpoints_panel import describe, disk_line, label, stamp, star_only


@pytest.fixture
def run(tmp_path: Path, loud_controlnet: Path) -> Path:
    for step in (5, 10):
        write_checkpoint(tmp_path / "run" / "checkpoints" / f"step-{step:06d}", loud_controlnet, step=step)
    return tmp_path / "run"


def test_ticked_checkpoints_get_a_star_and_the_stamp_changes(run: Path) -> None:
    before = stamp(run)
    star_only(run, [5])
    assert [checkpoint.starred for checkpoint in list_checkpoints(run)] == [True, False]
    assert stamp(run) != before
    first, second = map(label, list_checkpoints(run))
    assert first.startswith("★ step 5 · ") and second.startswith("step 10 · ") and second.endswith("weights only")
    star_only(run, [])
    assert not any(checkpoint.starred for checkpoint in list_checkpoints(run))


def test_unusable_checkpoints_are_named(run: Path) -> None:
    (run / "checkpoints" / "step-000010" / "controlnet" / "config.json").unlink()
    words = describe(run, list_checkpoints(run), broken_checkpoints(run))
    assert "1 checkpoint." in words and "Free disk space: " in words
    assert "step-000010 cannot be used: its file controlnet/config.json is missing" in words


def test_a_run_without_a_folder_has_no_checkpoints(tmp_path: Path) -> None:
    assert stamp(tmp_path / "gone") == ()


def test_disk_line() -> None:
    assert disk_line(None) == ""
    seen = DiskSpace(free=3 * 2**30, run=2**30, next_checkpoint=2**20)
    assert disk_line(seen) == "Disk: 3.0 GB free · this run 1.0 GB · next checkpoint up to 1.0 MB"
