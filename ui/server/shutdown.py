"""Ending the app by Ctrl-C, a closed console, a shutdown or the Close button: the run is saved first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ui.page.context import AppContext

TELL_SECONDS = 15.0
GIVE_UP_SECONDS = 900.0
"""A step that hangs for so long will not end any more."""
CONSOLE_SECONDS = 20.0
"""After a console is closed Windows waits five seconds for the process, at a shutdown twenty, whatever it answers."""
CONSOLE_ENDS = (2, 5, 6)  # CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT


class Ending:
    """The wish to end the app: asked for by a signal, a console or a page, and waited for by the main thread."""

    def __init__(self) -> None:
        self._asked, self._hurry, self._done = threading.Event(), threading.Event(), threading.Event()
        self._handler: Any = None

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    @property
    def hurried(self) -> bool:
        """Ctrl-C was pressed again: end at once, with what the last checkpoint holds."""
        return self._hurry.is_set()

    def ask(self) -> None:
        """End as soon as the run is saved."""
        self._asked.set()

    def wait(self, seconds: float) -> bool:
        return self._asked.wait(seconds)

    def finished(self) -> None:
        """All is saved and closed."""
        self._done.set()

    def listen(self) -> None:
        """Hear the system's signals; call in the main thread."""
        # SIGHUP: the terminal window was closed. It may come along with SIGTERM, so that only Ctrl-C counts twice.
        for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._on_signal)
        if sys.platform == "win32":
            import ctypes

            self._listen_to_console(ctypes.windll.kernel32, ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint))

    def _on_signal(self, number: int, _frame: Any) -> None:
        if self._asked.is_set() and signal.Signals(number).name in ("SIGINT", "SIGBREAK"):
            self._hurry.set()
        self._asked.set()

    def _listen_to_console(self, kernel32: Any, kind: Any) -> None:
        """Windows tells of a closed console window by a call in a thread of its own, not by a signal."""

        def closing(event: int) -> int:
            if event not in CONSOLE_ENDS:
                return 0  # Ctrl-C and Ctrl-Break: Python makes signals of them
            self._asked.set()
            self._done.wait(CONSOLE_SECONDS)  # the process ends when this returns
            return 1

        self._handler = kind(closing)  # kept: Windows calls it until the end
        kernel32.SetConsoleCtrlHandler(self._handler, 1)


def say(text: str) -> None:
    """Print; where the terminal is gone there is nobody to read, and that must not keep the run from being saved."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  else Python fails at its exit


def end(demo: Any, context: AppContext) -> int:
    """Pause a training run (it saves), cancel anything else, close the server. 0, or 1 where it was not saved."""
    runner = context.runner
    status = 0
    training = runner.alive and runner.snapshot.kind == "train"
    if training:
        say("Saving the run before closing ... (Ctrl-C once more ends at once.)")
        runner.pause()
    else:
        runner.cancel()
    if not _wait(context):
        say("The work did not end in time; the last checkpoint is whole. Resume it at the next start.")
        status = 1
    elif training and runner.snapshot.outcome in ("paused", "stopped", "cancelled"):
        say(f"The run is saved at step {runner.snapshot.step:,}. Resume it at the next start.")
    elif training and runner.snapshot.failure is not None:
        say(f"{runner.snapshot.failure.what} {runner.snapshot.failure.why}")
        status = 1
    demo.close(verbose=False)
    say("ControlNet Studio is closed.")
    return status


def _wait(context: AppContext) -> bool:
    """Until the job has ended; False where that takes too long or somebody is in a hurry."""
    waited = 0.0
    while not context.runner.wait(0.25):
        waited += 0.25
        if context.ending.hurried or waited >= GIVE_UP_SECONDS:
            return False
        if waited % TELL_SECONDS == 0:
            say("Still finishing the step and saving ...")
    return True
