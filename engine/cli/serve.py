"""The command "serve": draw with a run's ControlNet for other programs, over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from engine.disk.typed_path import path_of, typed_path
from engine.inference.engines import ENGINES
from engine.jobs.control import CancelToken, Control
from engine.machine.onnx_packages import TORCH
from engine.serving import PORT, WAITING
from engine.workspace.paths import Workspace

POLL_SECONDS = 0.5


def add_command(commands: Any) -> None:
    """Add "serve" to the command line's parsers."""
    serve = commands.add_parser("serve", help="draw for other programs over HTTP (docs/serving.md)")
    serve.add_argument("net", type=typed_path, help="a run's folder name, or a ControlNet's file or folder")
    serve.add_argument("--base", type=typed_path, default="", help="the base to draw with; default: the run's")
    serve.add_argument("--step", type=int, help="checkpoint of the run; default: the newest")
    serve.add_argument(
        "--engine", default=TORCH, choices=[one.name for one in ENGINES], help=f"what computes; default: {TORCH}"
    )
    serve.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0: any that is free")
    serve.add_argument("--waiting", type=int, default=WAITING, help=f"requests that may wait; default: {WAITING}")
    serve.add_argument(
        "--token-file",
        type=path_of,
        metavar="FILE",
        help="keep the token in this file, which is made if it is missing; default: a new token at each start",
    )
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer requests for this name, for a reverse proxy on this computer",
    )


def run(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Serve until Ctrl-C; exit status 0."""
    from engine.cli.output import EventPrinter
    from engine.conditions import places
    from engine.inference.session import TrySession
    from engine.serving.served_net import computed_by, serve_file, serve_run
    from engine.serving.server import ApiServer, read_token
    from engine.serving.worker import Draw

    console = EventPrinter()
    places.use(workspace)
    if options.net in {folder.name for folder in workspace.run_folders()}:
        served = serve_run(workspace, options.net, options.step, options.base)
    else:
        served = serve_file(Path(options.net), options.base)
    served = computed_by(served, options.engine)
    session = TrySession(workspace)

    def use_models(draw: Draw, token: CancelToken) -> None:
        draw(session, token)

    token = read_token(options.token_file)
    server = ApiServer(workspace, served, use_models, token, options.port, options.waiting, options.allow_host)
    console.say("Loading the models.")
    session.load(served.reference, served.net, control.token, console.progress, engine=options.engine)
    for note in (*served.notes, *session.notes):
        console.say(note)
    server.start()
    console.say(f"{served.name} is served at {server.url}; {server.url}/docs explains how. Ctrl-C ends it.")
    console.say(f"Token: {token}" if options.token_file is None else f"The token is in {options.token_file}.")
    if counts := server.jobs.counts()["waiting"]:
        console.say(f"{counts} waiting from before.")
    while server.running and control.token.stop_requested is None:
        control.token.wait_for_request(POLL_SECONDS)
    server.stop()
    return 0
