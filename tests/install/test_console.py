"""One line a step on the screen, everything in the log."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from engine.install.console import Console, InstallError


@pytest.fixture
def console(any_root: Path) -> Console:
    return Console(any_root / ".install" / "install.log", io.StringIO())


def shown(console: Console) -> str:
    return console.out.getvalue()  # type: ignore[attr-defined]


def test_a_step_is_one_line_with_its_warnings_below(console: Console) -> None:
    console.begin(1, 2, "PyTorch")
    console.tick("never shown where there is no terminal")
    console.warn("careful")
    console.end("done")
    assert shown(console) == "[1/2] PyTorch ... done\n      ! careful\n"


def test_a_failure_prints_cause_fix_and_log(console: Console) -> None:
    console.begin(2, 2, "Packages")
    console.fail(InstallError("the disk is full", "free some space"))
    assert "[2/2] Packages ... FAILED\n\nCause: the disk is full\nFix:   free some space\n" in shown(console)
    assert f"Log:   {console.log}" in shown(console)


def test_a_childs_output_goes_to_the_log_and_not_to_the_screen(console: Console, any_root: Path) -> None:
    code = "import os; print('caf\\u00e9', os.environ['GREETING'])"
    environment = {**os.environ, "GREETING": "hello", "PYTHONUTF8": "1"}
    outcome = console.run([sys.executable, "-c", code], environment, any_root)
    assert outcome.code == 0
    assert outcome.output == "caf\u00e9 hello\n"
    assert shown(console) == ""
    assert console.log is not None
    assert "caf\u00e9 hello" in console.log.read_text(encoding="utf-8")


def test_progress_bars_stay_out_of_the_log(console: Console, any_root: Path) -> None:
    console.run([sys.executable, "-c", "print('bar')"], os.environ, any_root, lambda line: "\t" + line)
    assert console.log is not None
    assert "  bar" not in console.log.read_text(encoding="utf-8")


def test_without_a_log_nothing_is_written(any_root: Path) -> None:
    before = sorted(any_root.iterdir())
    Console(None, io.StringIO()).say("hello")
    assert sorted(any_root.iterdir()) == before
