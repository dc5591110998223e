"""The server: its port, its thread, its token."""

from __future__ import annotations

import secrets
import socket
import sys
import threading
from collections.abc import Collection
from pathlib import Path

import uvicorn

from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.serving import PORT, WAITING
from engine.serving.api import build_api
from engine.serving.guard import ApiGuard
from engine.serving.jobs import Jobs
from engine.serving.served_net import ServedNet
from engine.serving.worker import UseModels, Worker
from engine.workspace.paths import Workspace

HOST = "127.0.0.1"
START_SECONDS = 15.0
SHORTEST_TOKEN = 16


class ApiServer:
    """A server on 127.0.0.1 and the worker that draws for it.

    Args:
        port: its own; 0: any that is free.
        waiting: how many requests may wait.
        names: host names that it answers to beside those of this computer.

    Raises:
        UserError: the port cannot be used.
    """

    def __init__(
        self,
        workspace: Workspace,
        served: ServedNet,
        use_models: UseModels,
        token: str,
        port: int = PORT,
        waiting: int = WAITING,
        names: Collection[str] = (),
    ) -> None:
        self._socket = _listen(port)
        self.port = self._socket.getsockname()[1]
        self.served = served
        self.jobs = Jobs(workspace.serving / str(self.port), waiting)
        self._worker = Worker(self.jobs, served, use_models)
        app = ApiGuard(build_api(self.jobs, served), token, names)
        # Without an access log: it would fill with the addresses of clients that ask for the state each second.
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="http", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Answer requests, and go on with those that a killed server left."""
        self._worker.start()
        self._thread.start()

    def stop(self) -> None:
        """Answer no more requests; clients that wait are told the state. What waits is drawn after the next start."""
        self.jobs.stop_waiting()
        self._server.should_exit = True
        self._worker.stop()
        self._thread.join(timeout=START_SECONDS)
        self._socket.close()


def read_token(path: Path | None) -> str:
    """The token in a file, which is made if it is missing; None: a new one for this start.

    Raises:
        UserError: the file cannot be read or written, or its token is too short.
    """
    fresh = secrets.token_urlsafe(24)
    if path is None:
        return fresh
    try:
        if not path.exists():
            atomic_write_text(path, fresh + "\n")
            path.chmod(0o600)
        token = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"The token in {path} cannot be read.", f"{error}.", "Choose another --token-file.") from error
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError(
            f"The token in {path.name} cannot be sent in a header.",
            "It contains a space, a line break or a character other than letters, digits and ASCII signs.",
            "Delete the file: a new token is then made.",
        )
    if len(token) < SHORTEST_TOKEN:
        raise UserError(
            f"The token in {path.name} is too short.",
            f"It has {len(token)} characters, and {SHORTEST_TOKEN} are needed, so that nobody can guess it.",
            "Delete the file: a new token is then made.",
        )
    return token


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":  # a killed server's port is free at once; on Windows it would allow one that is in use
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(
            f"Port {port} cannot be used.",
            f"{error}. Another program is probably using it, perhaps another server of this app.",
            "Close that program, or choose another --port (0: any that is free).",
        ) from error
    return listener
