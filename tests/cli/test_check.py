"""The command that checks a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.cli.main import EXIT_PROBLEM, main
from tests.data.doctor.planted import photographs, write


def test_findings_are_reported_left_out_and_taken_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    for number, photo in zip(range(3), photographs(), strict=False):
        write(folder / f"{number}.png", photo)
    Image.fromarray(np.full((256, 256, 3), 90, np.uint8)).save(folder / "flat.png")
    start = ["--workspace", str(tmp_path / "ws")]
    assert main([*start, "scan", str(folder), "--name", "set"]) == 0
    check = [*start, "check", "set", "--resolution", "256"]
    assert main(check) == 0
    output = capsys.readouterr().out
    assert "Nearly one colour: 1   [constant]" in output and "flat.png: 0 of 255 grey values" in output
    assert main([*check, "--fix", "exclude", "--finding", "constant"]) == 0
    output = capsys.readouterr().out
    assert "1 left out" in output and "3 images checked (0 read)" in output
    assert main([*check, "--fix", "undo", "--finding", "constant"]) == 0
    assert "Nearly one colour: 1   [constant]" in capsys.readouterr().out
    for wrong in (["--fix", "exclude"], ["--finding", "constant"], ["--fix", "correct", "--finding", "nothing"]):
        assert main([*check, *wrong]) == EXIT_PROBLEM
