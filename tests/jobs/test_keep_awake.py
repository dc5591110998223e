"""The machine is kept awake while a job runs, the page says so, and the lock is released however the job ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.errors import UserError
from engine.jobs import keep_awake
from engine.jobs.keep_awake import ES_CONTINUOUS, ES_SYSTEM_REQUIRED, KEPT, NOT_KEPT
from engine.jobs.runner import JobRunner
from engine.machine.clock import ActiveClock
from engine.workspace.paths import APP_FOLDER

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for the system's program")


class Kernel32:
    def __init__(self, answer: int = 1) -> None:
        self.asked: list[int] = []
        self._answer = answer

    def SetThreadExecutionState(self, flags: int) -> int:  # noqa: N802  (its name in Windows)
        self.asked.append(flags)
        return self._answer


@pytest.mark.answers("Does the computer go to sleep?")
def test_windows_is_asked_and_released() -> None:
    kernel = Kernel32()
    release = keep_awake.hold_windows(kernel)
    assert release is not None
    release()
    assert kernel.asked == [ES_CONTINUOUS | ES_SYSTEM_REQUIRED, ES_CONTINUOUS]
    assert keep_awake.hold_windows(Kernel32(answer=0)) is None, "zero means refused"


@pytest.fixture
def inhibitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for systemd-inhibit: notes what it was asked, then runs the command that it was given."""
    program = tmp_path / "bin" / "systemd-inhibit"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\necho $$ > "{tmp_path}/pid"\nfor last; do :; done\nexec "$last"\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def gone(folder: Path) -> bool:
    """Whether the stand-in has ended."""
    try:
        return psutil.Process(int((folder / "pid").read_text())).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.answers("Does the computer go to sleep?")
@POSIX
@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux' program")
@pytest.mark.parametrize("fails", [False, True])
def test_a_job_holds_the_lock_from_its_start_to_its_end(inhibitor: Path, fails: bool) -> None:
    seen: list[bool] = []

    def work(token: Any, emit: Any) -> str:
        seen.append(gone(inhibitor))
        if fails:
            raise UserError("It broke.", "Because.", "Try this.")
        return "completed"

    runner = JobRunner(keep_awake.job_context)
    runner.start("train", "Training", work)  # type: ignore[arg-type]
    assert runner.wait(30)
    assert seen == [False]
    assert gone(inhibitor)
    assert runner.snapshot.keep_awake == KEPT
    assert runner.snapshot.outcome == ("failed" if fails else "completed")
    assert "--what=sleep:idle" in (inhibitor / "asked").read_text()


@POSIX
@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux' program")
def test_an_app_that_is_killed_leaves_no_lock_behind(inhibitor: Path) -> None:
    code = "from engine.jobs import keep_awake; keep_awake.hold(); print('held', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=APP_FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "held"
    assert not gone(inhibitor)
    child.kill()
    child.wait(10)
    deadline = time.monotonic() + 30
    while not gone(inhibitor) and time.monotonic() < deadline:
        pass  # its pipe is closed by now
    assert gone(inhibitor)


@POSIX
def test_a_system_that_refuses_is_reported_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses, missing, no_program = tmp_path / "refuses", ["/no/such/program"], tmp_path / "not-executable"
    refuses.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    refuses.chmod(0o755)
    no_program.write_bytes(b"\x7fELF nothing")
    no_program.chmod(0o755)
    monkeypatch.setattr(keep_awake, "inhibitors", lambda: [missing, [str(no_program)], [str(refuses)]])
    monkeypatch.setattr(sys, "platform", "linux")
    messages: list[str] = []
    with keep_awake.keep_awake(messages.append):
        messages.append("worked")
    assert messages == [NOT_KEPT, "worked"]


def test_jobs_with_somebody_in_front_of_them_need_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_awake, "hold", lambda: pytest.fail("nothing is to be held"))
    with keep_awake.job_context("try", lambda event: None):
        pass


def test_every_system_has_a_way() -> None:
    assert keep_awake.inhibitors("darwin")[0][:2] == ["caffeinate", "-i"]
    assert [command[0] for command in keep_awake.inhibitors("linux")] == ["systemd-inhibit", "gnome-session-inhibit"]
    assert all(command[-1] == "cat" for command in keep_awake.inhibitors("linux")), "ends with its input"


def test_the_clock_stands_still_while_the_machine_sleeps() -> None:
    times = {"running": 1000.0, "waking": 5.0}
    clock = ActiveClock(lambda: times["running"], lambda: times["waking"])
    began = clock()
    times.update(running=1010.0, waking=15.01)  # the coarse clock is a little off
    assert clock() - began == 10.0
    times.update(running=1020.0 + 28_800, waking=25.0)  # a night
    assert clock() - began == pytest.approx(20.0)
    times.update(running=1021.5 + 28_800, waking=26.5)
    assert clock() - began == pytest.approx(21.5)
    assert ActiveClock(lambda: 7.0, None)() == 7.0
