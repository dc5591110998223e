"""Starting and ending the window: arguments, port, the server's settings, the browser, signals."""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.machine.free_memory import use_few_arenas
from engine.workspace.lock import InUse, WorkspaceLock
from engine.workspace.paths import Workspace
from ui.server import gradio_patches as quick_gradio
from ui.server import kept_ids
from ui.server.files import tidy
from ui.server.shutdown import end, say

if TYPE_CHECKING:
    from engine.jobs.runner import Emit
    from ui.page.context import AppContext

FIRST_PORT = 7860
PORTS_TRIED = 40
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
MAX_UPLOAD = 200 * 2**20  # bytes
USER = "studio"
EXIT_CANNOT_START, EXIT_INTERRUPTED = 2, 130
BROWSER_SECONDS = 10
NO_QUEUE_STATISTICS = {"GRADIO_ANALYTICS_MAX_EVENTS": "1", "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9)}
"""gradio's queue (6.31: queueing.py, Queue.push, compute_analytics_summary) notes each event of each page, and after
each it makes a pandas table of the last 10,000, for a dashboard that is shut here. An open page asks several times a
second: after 3,000 events a look cost 32 ms of processor time, at first 18. Bounded since gradio-app/gradio#13756, but
not switched off together with the dashboard. So: remember one, and make the table after the thousand millionth."""

QUEUE_SECONDS = 0.02
"""gradio's queue (6.31: queueing.py, Queue.start_processing) looks every millisecond whether an event has come, except
on Windows: a tenth of a processor core, for as long as the app is open, and in the way of training's own thread."""


def main(arguments: Sequence[str]) -> int:
    """Run the app until it is ended; returns the exit status."""
    options = parse_arguments(arguments)
    use_few_arenas()
    try:
        return run(options)
    except InUse as error:
        print(f"{error.what} {error.why}\n{error.try_this}", file=sys.stderr)
        if error.owner.here and error.owner.address and not options.no_browser:
            open_browser(error.owner.address, wait=True)
        return EXIT_CANNOT_START
    except UserError as error:
        print(f"{error.what} {error.why}\n{error.try_this}", file=sys.stderr)
        return EXIT_CANNOT_START
    except KeyboardInterrupt:  # while it was starting
        return EXIT_INTERRUPTED


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; ends the process with a sentence where they are wrong."""
    parser = argparse.ArgumentParser(prog="app.py", description="ControlNet Studio: train a ControlNet in the browser.")
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    parser.add_argument("--port", type=int, help=f"port of the page (default: the first free one from {FIRST_PORT})")
    parser.add_argument("--workspace", help="folder for datasets, runs and models (default: workspace/ beside the app)")
    parser.add_argument("--listen", action="store_true", help="answer other computers too; needs --password")
    parser.add_argument("--password", help=f"ask for this password (user name: {USER})")
    options = parser.parse_args(list(arguments))
    if options.listen and not options.password:
        parser.error("--listen lets other computers in: give a --password too.")
    if options.port is not None and not 1 <= options.port <= 65535:
        parser.error(f"--port {options.port}: a port lies between 1 and 65535.")
    return options


def run(options: argparse.Namespace) -> int:
    """Build and serve; returns when the user ends it.

    Raises:
        UserError: the workspace or the port cannot be used. InUse: another app has the workspace.
    """
    host = EVERYWHERE if options.listen else LOOPBACK
    workspace = Workspace(options.workspace)
    with WorkspaceLock(workspace, "its window") as lock:
        port = choose_port(host, options.port)
        lock.tell(f"http://{LOOPBACK}:{port}")
        return open_window(options, workspace, host, port)


def open_window(options: argparse.Namespace, workspace: Workspace, host: str, port: int) -> int:
    """The window over a workspace that is held; returns when the user ends it."""
    prepare_environment(workspace)
    quick_gradio.install()

    from engine.jobs.keep_awake import around_job
    from engine.jobs.runner import JobRunner
    from ui.app import build_app  # gradio reads the environment when it is imported
    from ui.page.context import AppContext

    loaded = threading.Event()

    def around(kind: str, emit: Emit) -> AbstractContextManager[None]:
        loaded.wait()  # two threads that import the same large library at once can find it half made
        return around_job(kind, emit)

    context = AppContext(workspace, JobRunner(around), local=not options.listen)
    demo = build_app(context)
    context.ending.listen()
    serve(demo, context, host, port, options.password)
    if options.port is None and port != FIRST_PORT:
        say(f"Port {FIRST_PORT} is in use, so this window takes {port}.")
    address = f"http://{LOOPBACK}:{port}"
    say(f"ControlNet Studio is open at {address}")
    if options.password:
        say(f"It asks for the password; the user name is {USER}.")
    if not options.no_browser:
        open_browser(address)
    threading.Thread(target=warm_up, args=(context, loaded), name="warm-up", daemon=True).start()
    while not context.ending.wait(0.5):  # a wait without end does not hear Ctrl-C on Windows
        pass
    try:
        return end(demo, context)
    finally:
        context.ending.finished()


def choose_port(host: str, wanted: int | None) -> int:
    """The wanted port, or the first free one.

    Raises:
        UserError: the wanted port is taken, or none is free.
    """
    if wanted is not None:
        if not is_free(host, wanted):
            raise UserError(
                f"Port {wanted} is in use.",
                "Another program, perhaps another window of this app, answers there.",
                "Close it, give another --port, or leave --port out: then a free one is taken.",
            )
        return wanted
    for port in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        if is_free(host, port):
            return port
    raise UserError(
        "No free port was found.",
        f"All from {FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1} are in use.",
        "Give a --port.",
    )


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":  # there the option would allow a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def prepare_environment(workspace: Workspace) -> None:
    """No telemetry, no settings of other gradio apps, temporary files inside the workspace."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    temporary = workspace.temporary
    temporary.mkdir(exist_ok=True)
    tidy(temporary)
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_TEMP_DIR=str(temporary),
        **NO_QUEUE_STATISTICS,
        HF_HUB_DISABLE_TELEMETRY="1",
        DO_NOT_TRACK="1",
        DISABLE_TELEMETRY="YES",
    )


def serve(demo: Any, context: AppContext, host: str, port: int, password: str | None) -> None:
    """Start the server in threads of its own.

    Raises:
        UserError: the port was taken in the meantime.
    """
    from starlette.middleware import Middleware

    from ui.page.live import PAGES
    from ui.page.style import CSS, ON_LOAD, theme
    from ui.server.guard import LOOPBACK_NAMES, Inside, LocalGuard, machine_names
    from ui.server.serve import Beat

    kept_ids.install()
    demo._queue.sleep_when_free = QUEUE_SECONDS
    everywhere = host == EVERYWHERE
    names = LOOPBACK_NAMES | machine_names() if everywhere else LOOPBACK_NAMES
    workspace = context.workspace
    inside = Inside((workspace.thumbnails, workspace.outputs), workspace.temporary, MAX_UPLOAD)
    guard = Middleware(LocalGuard, names=names, any_address=everywhere, inside=inside)  # type: ignore[arg-type]
    beat = Middleware(Beat, beats=context.beats)  # type: ignore[arg-type]
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
            # Only images that the app made: a dataset folder may hold web pages, which would be served as such.
            allowed_paths=[str(workspace.thumbnails), str(workspace.outputs)],
            blocked_paths=[str(workspace.datasets), str(workspace.models), str(workspace.cache)],
            app_kwargs={"middleware": [guard, beat]},
            max_file_size=MAX_UPLOAD,
            state_session_capacity=PAGES,  # each page that was ever opened takes more than a megabyte until then
            enable_monitoring=False,
            strict_cors=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=theme(),
            css=CSS,
            js=ON_LOAD,
        )
    except OSError as error:
        raise UserError(f"Port {port} cannot be used.", f"{error}.", "Start again, or give another --port.") from error


def open_browser(address: str, wait: bool = False) -> None:
    """In the background; a machine without a display simply has none to open. ``wait``: this process ends next."""

    def show() -> None:
        try:
            webbrowser.open(address)
        except webbrowser.Error as error:
            print(f"No browser could be opened ({error}); open {address} yourself.", flush=True)

    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    thread = threading.Thread(target=show, name="browser", daemon=True)
    thread.start()
    if wait:
        thread.join(BROWSER_SECONDS)


def warm_up(context: AppContext, loaded: threading.Event) -> None:
    """Load the large libraries while the user looks at the first page; jobs start when that is done."""
    try:
        import diffusers  # noqa: F401
        import torch  # noqa: F401

        gc.collect()
        gc.freeze()  # they stay: to look through them at each collection takes longer than to draw a small image
    except ImportError as error:  # the page works without them; the first job will say what is wrong
        print(f"A library cannot be loaded: {error}", file=sys.stderr, flush=True)
    finally:
        loaded.set()
    context.warm.set()
