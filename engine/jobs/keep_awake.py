"""Keeps the machine awake while a job runs, and lets it sleep again the moment the job ends.

Windows: SetThreadExecutionState, for as long as the job's thread lives. Linux: a child process that holds a lock of
logind (systemd-inhibit) or of the desktop session. macOS: caffeinate. The children read from a pipe of this process, or
watch its process id: however this process ends, so do they.

Why no library: wakepy 1.0.0 (MIT) asks the desktop session over D-Bus and cannot use logind yet (its issue 335), so
that a machine without a desktop would not be kept awake. These lines would have to stay beside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from engine.jobs.events import Event, KeepAwakeStatus
from engine.jobs.snapshot import JobKind

NAME, WHY = "ControlNet Studio", "A job is running"
ES_SYSTEM_REQUIRED, ES_CONTINUOUS = 0x00000001, 0x80000000
SETTLE_SECONDS = 0.5
"""A child process that was refused ends at once. One that is alive after this time holds its lock."""
ATTENDED = (JobKind.TRY, JobKind.EXPORT)
"""Kinds of jobs that are short enough for the user to wait for."""
KEPT = "The computer is kept awake while this runs (its screen may turn off)."
NOT_KEPT = "The computer could not be kept awake: turn off sleep mode in its settings while this runs."


def inhibitors(platform: str = sys.platform) -> list[list[str]]:
    """Commands that keep this system awake while they run, best first. They end when their input is closed."""
    if platform == "darwin":
        return [["caffeinate", "-i", "-w", str(os.getpid())]]
    who = [f"--who={NAME}", f"--why={WHY}"]
    logind = ["systemd-inhibit", "--what=sleep:idle", *who, "--mode=block", "cat"]
    session = ["gnome-session-inhibit", "--app-id", NAME, "--reason", WHY, "--inhibit", "suspend:idle", "cat"]
    return [logind, session]


@contextmanager
def keep_awake(report: Callable[[str], None]) -> Iterator[None]:
    """Keep the machine awake inside the block. Call it in the thread that does the work. It never raises.

    Args:
        report: called with one sentence: the computer is kept awake, or it could not be.
    """
    release = hold()
    report(KEPT if release else NOT_KEPT)
    try:
        yield
    finally:
        if release:
            release()


def job_context(kind: str, emit: Callable[[Event], None]) -> AbstractContextManager[None]:
    """The context of a job for JobRunner: keeps the machine awake for jobs that may take hours."""
    if kind in ATTENDED:
        return nullcontext()
    return keep_awake(lambda sentence: emit(KeepAwakeStatus(sentence)))


def hold() -> Callable[[], None] | None:
    """Keep the system awake. Returns a function that ends it, or None if the system refuses."""
    if sys.platform == "win32":
        import ctypes

        return hold_windows(ctypes.windll.kernel32)
    return hold_by_child(inhibitors())


def hold_windows(kernel32: Any) -> Callable[[], None] | None:
    """Keep Windows awake by a system call. It holds for the calling thread, and ends with it at the latest."""
    if not kernel32.SetThreadExecutionState(ES_CONTINUOUS | ES_SYSTEM_REQUIRED):
        return None

    def release() -> None:
        kernel32.SetThreadExecutionState(ES_CONTINUOUS)

    return release


def hold_by_child(commands: Sequence[Sequence[str]]) -> Callable[[], None] | None:
    """Keep the system awake by the first command that exists and is not refused."""
    for command in commands:
        program = shutil.which(command[0])
        if program is None:
            continue
        try:
            child = subprocess.Popen(
                [program, *command[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the app, which may still have to save
            )
        except OSError:
            continue  # the next one
        try:
            child.wait(SETTLE_SECONDS)
        except subprocess.TimeoutExpired:
            return lambda: _end(child)
        _end(child)
    return None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Close its input, which ends it; kill it if it does not end."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
