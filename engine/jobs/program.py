"""Runs another program until it ends, its time is up or the job is cancelled. Its child processes are stopped, too."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import psutil

from engine.jobs.control import CancelToken

CHECK_SECONDS = 0.1
"""Interval at which a cancel is looked for."""
OUTPUT_BYTES = 65_536
_LEFT_OPEN_SECONDS = 0.5  # a child of an ended program may keep the output open; nobody waits longer for it

_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Ended:
    """The end of a program. ``code``: its exit code, None if it was stopped after its time limit."""

    code: int | None
    output: str
    """The end of what it printed, at most ``OUTPUT_BYTES``; invalid UTF-8 is replaced."""


def run_program(arguments: Sequence[str], seconds: float, token: CancelToken | None = None) -> Ended:
    """Runs a program without a shell and without input.

    Args:
        seconds: time limit.
        token: a cancel stops the program within ``CHECK_SECONDS``.

    Raises:
        OSError: it cannot be started. Cancelled: the token was cancelled.
    """
    ends = time.monotonic() + seconds
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        start_new_session=True,  # a group of its own, so that its children can be found
    )
    _running.add(process)
    output = bytearray()
    assert process.stdout is not None
    reader = threading.Thread(target=_read, args=(process.stdout, output), name="program-output", daemon=True)
    reader.start()
    try:
        while process.poll() is None and time.monotonic() < ends:
            if token:
                token.raise_if_cancelled()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(CHECK_SECONDS, max(0.0, ends - time.monotonic())))
        code = process.poll()
    finally:
        if process.poll() is None:
            stop(process)
        _running.discard(process)
    reader.join(_LEFT_OPEN_SECONDS)
    return Ended(code, bytes(output).decode("utf-8", "replace"))


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kills a process started with ``start_new_session``, and its children."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    for child in family:
        with contextlib.suppress(psutil.Error):
            child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)  # one that waits for a dead disk ends later


def _read(stream: IO[bytes], output: bytearray) -> None:
    """Keeps the end of the output. Closes the stream when the last process that writes to it has ended."""
    with stream:
        while chunk := os.read(stream.fileno(), 4096):
            output += chunk
            del output[:-OUTPUT_BYTES]


@atexit.register
def _stop_all() -> None:
    """Stops what is left when the app ends: a program in a group of its own does not get the terminal's Ctrl-C."""
    for process in list(_running):
        stop(process)
