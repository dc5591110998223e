"""Starts and ends the app: command-line options, the lock on the workspace, the window, the browser."""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from engine.disk.typed_path import path_of
from engine.errors import UserError
from engine.machine import environment
from engine.machine.cards import use_one
from engine.machine.memory import limit_arenas
from engine.workspace.lock import InUse, WorkspaceLock
from engine.workspace.paths import Workspace
from engine.workspace.remembered import CARD, remembered
from ui.server import gradio_patches
from ui.server.serve import EVERYWHERE, FIRST_PORT, LOOPBACK, USER, choose_port, prepare_environment, serve
from ui.server.shutdown import print_line, shut_down

if TYPE_CHECKING:
    from engine.jobs.runner import Emit
    from ui.page.context import AppContext

EXIT_CANNOT_START, EXIT_INTERRUPTED = 2, 130
BROWSER_SECONDS = 10


def main(arguments: Sequence[str]) -> int:
    """Run the app until the user ends it. Returns the exit status."""
    options = parse_arguments(arguments)
    limit_arenas()
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
    """Return the options. Exits with a message if they are wrong."""
    parser = argparse.ArgumentParser(prog="app.py", description="ControlNet Studio: train a ControlNet in the browser.")
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    parser.add_argument("--port", type=int, help=f"port of the page (default: the first free one from {FIRST_PORT})")
    parser.add_argument(
        "--workspace", type=path_of, help="folder for datasets, runs and models (default: workspace/ beside the app)"
    )
    parser.add_argument(
        "--card",
        type=int,
        metavar="N",
        help="number of the graphics card to use this time, from 0 (NVIDIA's as in nvidia-smi)",
    )
    parser.add_argument("--listen", action="store_true", help="let other computers connect; needs --password")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer to this host name, such as that of a reverse proxy, or of this computer on another network "
        "(repeatable)",
    )
    parser.add_argument("--password", help=f"password to open the page (user name: {USER})")
    options = parser.parse_args(list(arguments))
    if options.listen and not options.password:
        parser.error("--listen lets other computers in: set a --password, too.")
    if options.allow_host and not options.password:
        parser.error("--allow-host may let other computers in: set a --password, too.")
    if any(not re.fullmatch(r"[\w.-]+", name) for name in options.allow_host):
        parser.error("--allow-host takes a name such as studio.example.org, without https:// and without a port.")
    if options.port is not None and not 1 <= options.port <= 65535:
        parser.error(f"--port {options.port}: a port must be between 1 and 65535.")
    return options


def run(options: argparse.Namespace) -> int:
    """Lock the workspace and open the window. Returns when the user ends it.

    Raises:
        UserError: the workspace, the port or the graphics card cannot be used.
        InUse: another app uses the workspace.
    """
    host = EVERYWHERE if options.listen else LOOPBACK
    workspace = Workspace(options.workspace)
    environment.prepare()
    card = use_one(options.card, remembered(workspace).get(CARD, ""))  # before torch is imported
    if options.card is not None and card is not None:
        print_line(f"Using graphics card {card.number}: {card.title}.")
    with WorkspaceLock(workspace, "its window") as lock:
        port = choose_port(host, options.port)
        lock.set_address(f"http://{LOOPBACK}:{port}")
        return open_window(options, workspace, host, port)


def open_window(options: argparse.Namespace, workspace: Workspace, host: str, port: int) -> int:
    """Build and serve the window over a locked workspace. Returns when the user ends it."""
    prepare_environment(workspace)  # gradio reads it when it is imported
    gradio_patches.import_without_stubs()

    from engine.jobs.keep_awake import job_context
    from engine.jobs.runner import JobRunner
    from ui.app import build_app
    from ui.page.context import AppContext
    from ui.page.live import PAGES
    from ui.page.style import CSS, ON_LOAD, theme

    loaded = threading.Event()

    def around(kind: str, emit: Emit) -> AbstractContextManager[None]:
        loaded.wait()  # two threads that import the same large library at once may see it half initialised
        return job_context(kind, emit)

    context = AppContext(workspace, JobRunner(around), local=not options.listen)
    demo, live = build_app(context)
    context.shutdown.install_handlers()
    serve(
        demo,
        workspace,
        live.versions,
        context.progress,
        host,
        port,
        options.password,
        PAGES,
        options.allow_host,
        theme=theme(),
        css=CSS,
        js=ON_LOAD,
    )
    if options.port is None and port != FIRST_PORT:
        print_line(f"Port {FIRST_PORT} is in use, so this window uses port {port}.")
    address = f"http://{LOOPBACK}:{port}"
    print_line(f"ControlNet Studio is open at {address}")
    if options.password:
        print_line(f"It asks for the password; the user name is {USER}.")
    if not options.no_browser:
        open_browser(address)
    threading.Thread(target=warm_up, args=(context, loaded), name="warm-up", daemon=True).start()
    while not context.shutdown.wait(0.5):  # without a time-out Ctrl-C is not noticed on Windows
        context.queue.begin_added()
    try:
        return shut_down(demo, context.runner, context.shutdown)
    finally:
        context.shutdown.finish()


def open_browser(address: str, wait: bool = False) -> None:
    """Open the page in the background. ``wait``: wait for the browser, because this process ends next."""

    def show() -> None:
        try:
            webbrowser.open(address)
        except webbrowser.Error as error:
            print(f"No browser could be opened ({error}); open {address} yourself.", flush=True)

    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return  # no desktop
    thread = threading.Thread(target=show, name="browser", daemon=True)
    thread.start()
    if wait:
        thread.join(BROWSER_SECONDS)


def warm_up(context: AppContext, loaded: threading.Event) -> None:
    """Import the trainer, and with it the large libraries, while the user looks at the first page.

    Jobs and pages wait for it. ``import diffusers`` would not do: it loads its parts when they are first used, and two
    threads that load the same part at once see it half initialised.
    """
    try:
        import engine.training.trainer  # noqa: F401

        gc.collect()
        gc.freeze()  # the libraries stay: scanning their objects at each collection takes longer than a small image
    except ImportError as error:  # the page works without them; the first job reports what is wrong
        print(f"A library cannot be loaded: {error}", file=sys.stderr, flush=True)
    finally:
        loaded.set()
    context.libraries_loaded.set()
