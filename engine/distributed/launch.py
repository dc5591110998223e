"""Start a command in several processes on this machine (``--processes``), without a configuration of accelerate's."""

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
"""Time for the other processes to end after one has failed: they notice by themselves, and main may be saving."""


def start_together(arguments: Sequence[str], count: int) -> int:
    """Run ``engine.cli`` in ``count`` processes and wait. Returns main's exit code, or that of one that failed.

    Ctrl-C, SIGTERM and a closed terminal are forwarded to all of them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    rendezvous |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    if sys.platform == "win32":
        rendezvous["USE_LIBUV"] = "0"  # torch for Windows is built without it
    command = [sys.executable, "-m", "engine.cli", *arguments]
    children: list[subprocess.Popen[bytes]] = []
    before = _forward_signals(children)
    try:
        for rank in range(count):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # In a session of its own: else Ctrl-C would arrive twice, from the terminal and from here.
            children.append(
                subprocess.Popen(command, env={**os.environ, **rendezvous, **place}, start_new_session=True)
            )
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _forward_signals(children: list[subprocess.Popen[bytes]]) -> dict[int, Any]:
    """Forward signals to the children from now on. Returns the previous handlers."""

    def forward(number: int, _frame: Any) -> None:
        for child in children:
            if child.poll() is None and sys.platform != "win32":  # there, all share a console and get it anyway
                child.send_signal(number)

    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return {number: signal.signal(number, forward) for number in known}


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
