"""However the app is ended, the run is saved first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.jobs.control import Token
from engine.runs.run import Run
from engine.workspace.lock import FILE
from engine.workspace.paths import Workspace
from tests.browser.studio import ROOT, Studio, free_port
from tests.forked import Forks
from ui import launch
from ui.page.context import AppContext
from ui.server.shutdown import CONSOLE_EVENTS, Shutdown, print_line, shut_down

PROGRAM = (str(ROOT / "tests" / "ui" / "train" / "training_window.py"),)


class Demo:
    def close(self, verbose: bool) -> None:
        pass


@pytest.fixture
def signals() -> Any:
    """Restore the signal handlers afterwards."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_signal_requests_a_shutdown_and_only_a_second_ctrl_c_is_immediate(signals: None, name: str) -> None:
    asked = Shutdown()
    asked.install_handlers()
    for _ in range(2):
        os.kill(os.getpid(), getattr(signal, name))
    assert asked.wait(5)
    assert asked.immediate == (name == "SIGINT")


def test_a_closed_windows_console_waits_until_the_run_is_saved() -> None:
    called: list[Any] = []
    kernel32 = SimpleNamespace(SetConsoleCtrlHandler=lambda handler, add: called.append((handler, add)))
    asked = Shutdown()
    asked.handle_console(kernel32, lambda function: function)
    (handler, add) = called[0]
    assert add == 1
    assert handler(0) == 0 and not asked.requested, "Ctrl-C is Python's"
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(handler(CONSOLE_EVENTS[0])))
    thread.start()
    assert asked.wait(5)
    assert not answers, "Windows would end the process now"
    asked.finish()
    thread.join(10)
    assert answers == [1]


def test_a_second_ctrl_c_does_not_wait(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    context, release = AppContext(workspace), threading.Event()

    def hangs(token: Token, emit: Any) -> str:
        release.wait(60)
        return "paused"

    context.runner.start("train", "Training", hangs)  # type: ignore[arg-type]
    context.shutdown.request_now()
    assert shut_down(Demo(), context.runner, context.shutdown) == 1
    assert "last checkpoint is complete" in capsys.readouterr().out
    release.set()


def test_a_run_that_fails_while_saving_is_not_reported_as_saved(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    context = AppContext(workspace)

    def fails(token: Token, emit: Any) -> str:
        while token.stop_requested is None:
            pass
        raise OSError(28, "No space left on device")

    context.runner.start("train", "Training", fails)  # type: ignore[arg-type]
    assert shut_down(Demo(), context.runner, context.shutdown) == 1
    output = capsys.readouterr().out
    assert "disk is full" in output and "is saved" not in output


def test_printing_to_a_closed_terminal_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stdout", Gone())
    print_line("Saving")
    print_line("Saved")
    sys.stdout.close()


def until(condition: Any, app: Studio | None = None, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        if app is not None and app.process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(app.printed() if app is not None else "it did not come about in time")


def trained(root: Path) -> bool:
    folders = list((root / "runs").glob("*/metrics.jsonl"))
    return bool(folders) and any(entry.get("step", 0) > 0 for entry in Run(folders[0].parent).metrics())


@pytest.fixture
def ready(tmp_path: Path, paired_folder: Path, tiny_base: Path) -> tuple[Path, dict[str, str]]:
    root = tmp_path / "workspace"
    Dataset.create(Workspace(root), "pairs", scan_folder(paired_folder))
    return root, {"STUDIO_DATASET": "pairs", "STUDIO_BASE": str(tiny_base)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
def test_sigterm_saves_the_run(ready: tuple[Path, dict[str, str]], forks: Forks) -> None:
    root, environment = ready
    app = Studio(root, program=PROGRAM, forks=forks, **environment)
    try:
        until(lambda: trained(root), app)
        second = Studio(root, port=free_port())
        assert second.process.wait(60) == launch.EXIT_CANNOT_START
        assert "already open" in second.printed() and app.address in second.printed()
        app.process.send_signal(signal.SIGTERM)
        assert app.process.wait(60) == 0, app.printed()
    finally:
        app.kill()
    (folder,) = Workspace(root).run_folders()
    run, saved = Run(folder), Run(folder).last_step
    assert (run.ending, saved > 0) == ("paused", True)
    assert f"The run is saved at step {saved:,}" in app.printed()
    assert not (root / FILE).exists()


# The quick tests above: SIGHUP requests a shutdown, and printing to a closed terminal does no harm.
@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_a_closed_terminal_saves_the_run(ready: tuple[Path, dict[str, str]]) -> None:
    import pty

    root, environment = ready
    master, terminal = pty.openpty()  # closed below like a terminal window: the app gets SIGHUP and cannot print
    code = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", code, *PROGRAM, "--no-browser", "--port", str(free_port())]
    child = subprocess.Popen(
        [*command, "--workspace", str(root)],
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, **environment},
    )
    os.close(terminal)
    os.set_blocking(master, False)
    try:
        until(lambda: _drain(master) or trained(root))
        os.close(master)
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait(10)
    (folder,) = Workspace(root).run_folders()
    assert (Run(folder).ending, Run(folder).last_step > 0) == ("paused", True)


def _drain(descriptor: int) -> None:
    """Read the output, because a full terminal would block its writer."""
    with suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass
