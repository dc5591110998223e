"""Sizes of folders that change meanwhile: a checkpoint is renamed when it is complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.disk.space import folder_bytes


def test_a_folder_that_vanishes_while_it_is_measured_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("step-1", ".writing-step-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"12345")
    scan = os.scandir

    def renamed_before(path: object = ".") -> object:
        if ".writing" in str(path) and (tmp_path / ".writing-step-2").exists():
            (tmp_path / ".writing-step-2").rename(tmp_path.parent / f"{tmp_path.name}-done")
        return scan(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", renamed_before)
    assert folder_bytes(tmp_path) == 5
