"""The command "datasets": sets of images to download.

python -m engine.cli datasets list
python -m engine.cli datasets get fill50k      (any other set of the hub: import owner/name)
"""

from __future__ import annotations

import argparse
from typing import Any

from engine.cli.add_images import say_result
from engine.jobs.control import Control
from engine.machine.units import counted, format_bytes
from engine.workspace.lock import WorkspaceLock
from engine.workspace.paths import Workspace


def add_command(commands: Any) -> None:
    """Add "datasets" to the command line's parsers."""
    datasets = commands.add_parser("datasets", help="sets of images to download: list them, get one")
    actions = datasets.add_subparsers(dest="action", required=True, metavar="list|get")
    actions.add_parser(
        "list",
        help="sets to download, and which of them are already here; works offline",
    )
    get = actions.add_parser("get", help="download a set and make a dataset of it; continues where it stopped")
    get.add_argument("name", help="a name from the list")


def run(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """List the sets, or get one. Returns the exit status 0."""
    from engine.cli.output import EventPrinter

    console = EventPrinter()
    if options.action == "get":
        _get(options.name, workspace, control, console)
    else:
        _list(workspace, console)
    return 0


def _list(workspace: Workspace, console: Any) -> None:
    from engine.data.dataset_catalog import catalog_datasets, state_of

    for one in catalog_datasets():
        state = state_of(workspace, one)
        said: str = state.kind
        if state.kind == "partly downloaded":
            said += f": {format_bytes(state.have)} of about {one.download_mb} MB"
        console.say(f"{one.name:<14}{one.title}: {said}")
        console.say(f"{'':<14}{one.use}")
        maps = "with their control images" if one.maps else "without control images, which the app makes (extract)"
        console.say(f"{'':<14}{counted(one.images, 'image')} {maps}, download of about {one.download_mb} MB, {one.id}")
        console.say(f"{'':<14}Licence: {one.licence}. {one.licence_means}")
    console.say("\nDownload one with: python -m engine.cli datasets get NAME")


def _get(name: str, workspace: Workspace, control: Control, console: Any) -> None:
    from engine.data.dataset_catalog import dataset_named, download_dataset, state_of

    one = dataset_named(name)
    if state_of(workspace, one).kind == "downloaded":
        console.say(f"{one.name} is already downloaded: {workspace.dataset_folder(one.name)}")
        return
    console.say(f"Licence: {one.licence}. {one.licence_means}")
    with WorkspaceLock(workspace, "the command datasets get"):
        say_result(download_dataset(workspace, one, control.token, console.progress), console)
    if not one.maps:
        console.say(f"Make control images: python -m engine.cli extract {one.name} --type canny")
