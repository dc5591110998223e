"""Serves the page: the port, gradio's environment, the server with its guard, and the address that pages poll."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from anyio import to_thread

from engine.errors import UserError
from engine.machine.host_names import LOOPBACK_NAMES, machine_names, written_forms
from engine.workspace.paths import Workspace
from ui.server import gradio_patches
from ui.server.files import remove_old_uploads
from ui.server.guard import LocalGuard, RequestFilter
from ui.server.list_script import MendedLists
from ui.server.routes import POLL, PROGRESS

FIRST_PORT = 7860
PORTS_TRIED = 40
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
MAX_UPLOAD = 200 * 2**20  # bytes
USER = "studio"


class Poll:
    """ASGI middleware that answers ``GET /studio/poll`` and ``GET /studio/progress`` and passes everything else on.

    Every page asks this address each second whether it has to refresh. As an event of gradio's, the question would
    take a third of a CPU core on an idle page: see ui/page/live.py.

    Args:
        versions: returns one number for each update group. It grows when something in the group has changed.
        progress: returns what a page's title shows (ui/page/queueing.py), as plain values.
    """

    def __init__(
        self, app: Any, versions: Callable[[], Sequence[int]], progress: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._app = app
        self._answers: dict[str, Callable[[], Any]] = {POLL: versions, PROGRESS: progress}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] not in self._answers:
            await self._app(scope, receive, send)
            return
        body = json.dumps(await to_thread.run_sync(self._answers[scope["path"]])).encode()
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def choose_port(host: str, wanted: int | None) -> int:
    """Return the wanted port, or the first free one.

    Raises:
        UserError: the wanted port is in use, or none is free.
    """
    if wanted is not None:
        if not is_free(host, wanted):
            raise UserError(
                f"Port {wanted} is in use.",
                "Another program is using it, perhaps another window of this app.",
                "Close that program, choose another --port, or leave --port out to get a free one.",
            )
        return wanted
    for port in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        if is_free(host, port):
            return port
    raise UserError(
        "No free port was found.",
        f"All from {FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1} are in use.",
        "Choose a port with --port.",
    )


def is_free(host: str, port: int) -> bool:
    """Return whether a server can listen on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":  # on Windows the option would allow a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def prepare_environment(workspace: Workspace) -> None:
    """Set the variables that gradio reads when it is imported.

    They switch telemetry off, keep settings of other gradio apps out, and put temporary files into the workspace.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    temporary = workspace.temporary
    temporary.mkdir(exist_ok=True)
    remove_old_uploads(temporary)
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_TEMP_DIR=str(temporary),
        **gradio_patches.NO_QUEUE_STATISTICS,
        HF_HUB_DISABLE_TELEMETRY="1",
        DO_NOT_TRACK="1",
        DISABLE_TELEMETRY="YES",
    )


def serve(
    demo: Any,
    workspace: Workspace,
    versions: Callable[[], Sequence[int]],
    progress: Callable[[], Mapping[str, Any]],
    host: str,
    port: int,
    password: str | None,
    max_pages: int,
    allowed: Collection[str] = (),
    **look: Any,
) -> None:
    """Start the server in threads of its own.

    Args:
        demo: the Blocks. versions, progress: see ``Poll``.
        allowed: host names that the user gave with --allow-host.
        max_pages: how many open pages gradio keeps in memory, more than a megabyte each.
        look: theme, css and js of the page.

    Raises:
        UserError: the port was taken meanwhile.
    """
    from starlette.middleware import Middleware

    gradio_patches.keep_component_ids()
    gradio_patches.trust_the_first_answer()
    gradio_patches.slow_down_queue(demo)
    everywhere = host == EVERYWHERE
    names = LOOPBACK_NAMES | machine_names() if everywhere else LOOPBACK_NAMES
    requests = RequestFilter((workspace.thumbnails, workspace.outputs), workspace.temporary, MAX_UPLOAD)
    own = frozenset(form for name in allowed for form in written_forms(name))
    guard = Middleware(
        LocalGuard,  # type: ignore[arg-type]
        names=names,
        any_address=everywhere,
        requests=requests,
        allowed=own,
    )
    poll = Middleware(Poll, versions=versions, progress=progress)  # type: ignore[arg-type]
    try:
        demo.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            auth=(USER, password) if password else None,
            auth_message=f"User name: {USER}",
            footer_links=[],
            run_history=False,
            # Only images that the app made: a dataset's folder may hold HTML files, which would be served as pages.
            allowed_paths=[str(workspace.thumbnails), str(workspace.outputs)],
            blocked_paths=[str(workspace.datasets), str(workspace.models), str(workspace.cache)],
            app_kwargs={"middleware": [guard, poll, Middleware(MendedLists)]},
            max_file_size=MAX_UPLOAD,
            state_session_capacity=max_pages,
            enable_monitoring=False,
            strict_cors=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            **look,
        )
    except OSError as error:
        raise UserError(
            f"Port {port} cannot be used.", f"{error}.", "Start the app again, or choose another --port."
        ) from error
