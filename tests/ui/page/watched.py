"""app.py with watched sockets: every address outside this computer is written to $STUDIO_CALLS and refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

CALLS = Path(os.environ.get("STUDIO_CALLS", "calls.txt"))
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.")


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook; it sees the calls of every library."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else "localhost"  # a path: a socket on this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0] or "localhost"
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if not host.startswith(LOOPBACK):
        with CALLS.open("a", encoding="utf-8") as file:
            file.write(f"{event} {arguments}\n")
        raise OSError(f"{event}: {host} is not this computer")


if __name__ == "__main__":
    sys.addaudithook(watch)
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from ui.launch import main

    sys.exit(main(sys.argv[1:]))
