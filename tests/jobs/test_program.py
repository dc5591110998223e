"""A program of the user's ends with its time limit or a cancel, and so do the processes that it has started."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from engine.jobs.control import Cancelled, Control
from engine.jobs.program import OUTPUT_BYTES, run_program

SLEEPS = "import time; time.sleep(60)"
WITH_CHILD = (
    "import subprocess, sys, time, pathlib\n"
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEPS!r}])\n"
    "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
    "print('child started', flush=True)\n"
)


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


def child_of(file: Path) -> psutil.Process:
    """The process whose number a program has written into a file."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if file.exists() and (number := file.read_text(encoding="utf-8")):
            return psutil.Process(int(number))
        time.sleep(0.02)
    raise AssertionError("the program did not start")


def gone(process: psutil.Process) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_the_exit_code_and_the_end_of_the_output_are_returned() -> None:
    ended = run_program(python("import sys; print('ä' * 50_000 + '!', end=''); sys.exit(3)"), 20)
    assert ended.code == 3 and ended.output.endswith("ä!") and len(ended.output) <= OUTPUT_BYTES // 2 + 2


def test_a_program_that_is_not_there_raises_an_error_of_the_system() -> None:
    with pytest.raises(OSError):
        run_program(["no-such-program-here"], 5)


def test_the_time_limit_counts_for_children_that_hold_the_output_open(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = run_program(python(WITH_CHILD + SLEEPS, str(tmp_path / "child")), 0.5)
    assert ended.code is None and time.monotonic() - began < 30
    if (tmp_path / "child").exists():  # not on a machine so busy that the program had no time to start it
        assert gone(child_of(tmp_path / "child"))


def test_a_child_that_goes_on_does_not_keep_the_app_waiting(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = run_program(python(WITH_CHILD, str(tmp_path / "child")), 60)
    child = child_of(tmp_path / "child")
    try:
        assert ended.code == 0 and "child started" in ended.output and time.monotonic() - began < 30
    finally:
        child.kill()


def test_a_cancel_ends_the_program_and_its_child_at_once(tmp_path: Path) -> None:
    control, raised = Control(), []

    def work() -> None:
        with pytest.raises(Cancelled):
            run_program(python(WITH_CHILD + SLEEPS, str(tmp_path / "child")), 60, control.token)
        raised.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    child = child_of(tmp_path / "child")
    parent = child.parent()
    cancelled = time.monotonic()
    control.cancel()
    thread.join(60)
    assert raised and raised[0] - cancelled < 20
    assert parent is not None and gone(parent) and gone(child)
