"""Starting several processes of one command on this machine, for whoever wants to know nothing about accelerate."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

GRACE_SECONDS = 120.0
"""For the others, once one has ended badly: they notice by themselves, and main may be in the middle of saving."""


def start_together(arguments: Sequence[str], count: int) -> int:
    """``engine.cli`` with these arguments in ``count`` processes, waited for; main's exit code, or another's bad one.

    Ctrl-C, SIGTERM and a closed terminal are handed on to all of them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    meet |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    if sys.platform == "win32":
        meet["USE_LIBUV"] = "0"  # torch for Windows is built without
    command = [sys.executable, "-m", "engine.cli", *arguments]
    children: list[subprocess.Popen[bytes]] = []
    before = _hand_on(children)
    try:
        for rank in range(count):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of their own: else a Ctrl-C would come twice, from the terminal and from here.
            children.append(subprocess.Popen(command, env={**os.environ, **meet, **place}, start_new_session=True))
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _hand_on(children: list[subprocess.Popen[bytes]]) -> dict[int, Any]:
    """Hand signals on from now on; the handlers that were there before."""

    def hand_on(number: int, _frame: Any) -> None:
        for child in children:
            if child.poll() is None and sys.platform != "win32":  # there, one console has told all of them
                child.send_signal(number)

    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return {number: signal.signal(number, hand_on) for number in known}


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    ends: float | None = None
    while any(child.poll() is None for child in children):
        if ends is None and any(child.poll() for child in children):
            ends = time.monotonic() + GRACE_SECONDS
        if ends is not None and time.monotonic() > ends:
            break
        time.sleep(0.1)
    codes = [child.poll() for child in children]
    return codes[0] or next((abs(code) for code in codes if code), 1 if None in codes else 0)
