"""The machine is kept awake while it works, and may sleep again the moment that the work ends.

Windows: SetThreadExecutionState, for as long as the job's thread lives. Linux: a child that holds a lock of logind
(systemd-inhibit) or of the desktop's session. macOS: caffeinate. The children read from a pipe of this process, or
watch its number: when it ends, however it ends, so do they.

Why no library: wakepy 1.0.0 (MIT) asks the desktop's session over D-Bus and has no way through logind yet (its issue
335), so that a machine without a desktop would not be kept awake; these lines would have to stay beside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from engine.jobs.events import AwakeTold, Event
from engine.jobs.snapshot import JobKind

NAME, WHY = "ControlNet Studio", "A job is running"
ES_SYSTEM_REQUIRED, ES_CONTINUOUS = 0x00000001, 0x80000000
SETTLE_SECONDS = 0.5
"""A child that was refused ends at once; one that is there after so long holds its lock."""
SHORT = (JobKind.TRY, JobKind.EXPORT)
"""Kinds of jobs in front of which somebody sits."""
KEPT = "The computer is kept awake meanwhile (its screen may go dark)."
NOT_KEPT = "The computer could not be kept awake: switch stand-by off in its settings for as long as this runs."


def inhibitors(platform: str = sys.platform) -> list[list[str]]:
    """Programs that keep this system awake while they run, best first. They end when their input does."""
    if platform == "darwin":
        return [["caffeinate", "-i", "-w", str(os.getpid())]]
    who = [f"--who={NAME}", f"--why={WHY}"]
    logind = ["systemd-inhibit", "--what=sleep:idle", *who, "--mode=block", "cat"]
    session = ["gnome-session-inhibit", "--app-id", NAME, "--reason", WHY, "--inhibit", "suspend:idle", "cat"]
    return [logind, session]


@contextmanager
def keep_awake(tell: Callable[[str], None]) -> Iterator[None]:
    """Keep the machine awake inside the block. Call it in the thread that works; what fails here ends no work.

    Args:
        tell: gets one sentence for people: that it is kept awake, or that it could not be.
    """
    release = _hold()
    tell(KEPT if release else NOT_KEPT)
    try:
        yield
    finally:
        if release:
            release()


def around_job(kind: str, emit: Callable[[Event], None]) -> AbstractContextManager[None]:
    """For the job runner: jobs that may take hours keep the machine awake."""
    if kind in SHORT:
        return nullcontext()
    return keep_awake(lambda words: emit(AwakeTold(words)))


def _hold() -> Callable[[], None] | None:
    """Take the lock; returns what gives it back, or None where the system refuses."""
    if sys.platform == "win32":
        import ctypes

        return hold_windows(ctypes.windll.kernel32)
    return hold_by_child(inhibitors())


def hold_windows(kernel32: Any) -> Callable[[], None] | None:
    """By the system's call. It counts for the calling thread, and ends with it at the latest."""
    if not kernel32.SetThreadExecutionState(ES_CONTINUOUS | ES_SYSTEM_REQUIRED):
        return None

    def release() -> None:
        kernel32.SetThreadExecutionState(ES_CONTINUOUS)

    return release


def hold_by_child(commands: Sequence[Sequence[str]]) -> Callable[[], None] | None:
    """By the first program that is there and stays."""
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
    """Close its input, which ends it; a stubborn one is ended."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
