"""Ends the app on Ctrl-C, a closed console, a system shutdown or the Close button. Training is saved first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from engine.jobs.runner import JobRunner
from engine.jobs.snapshot import JobKind

REPORT_SECONDS = 15.0
"""Interval of the message that saving is still under way."""
MAX_SECONDS = 900.0
"""A step that hangs for this long is not expected to end."""
CONSOLE_SECONDS = 20.0
"""Windows waits five seconds for a process after its console is closed, twenty at a shutdown, whatever it answers."""
CONSOLE_EVENTS = (2, 5, 6)  # CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT


class Shutdown:
    """The request to end the app. A signal, the console or a page makes it; the main thread waits for it."""

    def __init__(self) -> None:
        self._requested, self._immediate, self._finished = threading.Event(), threading.Event(), threading.Event()
        self._handler: Any = None

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    @property
    def immediate(self) -> bool:
        """Ctrl-C was pressed a second time: end now, with the last checkpoint as it is."""
        return self._immediate.is_set()

    def request(self) -> None:
        """End the app as soon as the run is saved."""
        self._requested.set()

    def request_now(self) -> None:
        """End the app at once, as a second Ctrl-C does."""
        self._immediate.set()
        self._requested.set()

    def wait(self, seconds: float) -> bool:
        """Wait for a request. Returns whether there is one."""
        return self._requested.wait(seconds)

    def finish(self) -> None:
        """Let Windows end the process: everything is saved and closed."""
        self._finished.set()

    def install_handlers(self) -> None:
        """Handle the signals of the system. Call in the main thread."""
        # SIGHUP means that the terminal was closed. It may arrive together with SIGTERM, so only Ctrl-C counts twice.
        for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._on_signal)
        if sys.platform == "win32":
            import ctypes

            self.handle_console(ctypes.windll.kernel32, ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint))

    def _on_signal(self, number: int, _frame: Any) -> None:
        if self._requested.is_set() and signal.Signals(number).name in ("SIGINT", "SIGBREAK"):
            self.request_now()
        self._requested.set()

    def handle_console(self, kernel32: Any, kind: Any) -> None:
        """Windows reports a closed console window by a callback in a thread of its own, not by a signal."""

        def on_event(event: int) -> int:
            if event not in CONSOLE_EVENTS:
                return 0  # Python turns Ctrl-C and Ctrl-Break into signals
            self._requested.set()
            self._finished.wait(CONSOLE_SECONDS)  # the process ends when this returns
            return 1

        self._handler = kind(on_event)  # a reference that Windows can call until the end
        kernel32.SetConsoleCtrlHandler(self._handler, 1)


def print_line(text: str) -> None:
    """Print a line. A closed terminal must not keep the run from being saved."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  else Python fails at its exit


def shut_down(demo: Any, runner: JobRunner, shutdown: Shutdown) -> int:
    """Pause a running training (which saves it), cancel any other job, close the server.

    Returns:
        The exit status: 0, or 1 if the run could not be saved.
    """
    status = 0
    training = runner.alive and runner.snapshot.kind == JobKind.TRAIN
    if training:
        print_line("Saving the run before closing ... (Press Ctrl-C again to stop at once.)")
        runner.pause()
    else:
        runner.cancel()
    if not _wait(runner, shutdown):
        print_line(
            "The work did not finish in time. The last checkpoint is complete: resume from it at the next start."
        )
        status = 1
    elif training and runner.snapshot.outcome in ("paused", "stopped", "cancelled"):
        print_line(f"The run is saved at step {runner.snapshot.step:,}. Resume it at the next start.")
    elif training and runner.snapshot.failure is not None:
        print_line(f"{runner.snapshot.failure.what} {runner.snapshot.failure.why}")
        status = 1
    demo.close(verbose=False)
    print_line("ControlNet Studio is closed.")
    return status


def _wait(runner: JobRunner, shutdown: Shutdown) -> bool:
    """Wait until the job has ended. False if that takes too long or the user wants to end at once."""
    waited = 0.0
    while not runner.wait(0.25):
        waited += 0.25
        if shutdown.immediate or waited >= MAX_SECONDS:
            return False
        if waited % REPORT_SECONDS == 0:
            print_line("Still finishing the step and saving ...")
    return True
