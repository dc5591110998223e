"""The command "bases": base models to download, and those that other programs have.

python -m engine.cli bases list
python -m engine.cli bases get sd15        (or any Hugging Face id: bases get owner/name)
python -m engine.cli bases find            (in the folders of other programs, and those named before)
python -m engine.cli bases find ~/models   (in a folder of your own, which is remembered)
python -m engine.cli bases export "demo + style.safetensors:0.8"   (a base with LoRA files in it, as one file or folder)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from engine.disk.typed_path import path_of, typed_path
from engine.errors import UserError
from engine.export.formats import BASE_FORMATS, WHOLE
from engine.jobs.control import Control
from engine.machine.units import counted, format_bytes, format_memory
from engine.workspace.paths import Workspace


def add_command(commands: Any) -> None:
    """Add "bases" to the command line's parsers."""
    bases = commands.add_parser("bases", help="base models: list them, download one, find those of other programs")
    actions = bases.add_subparsers(dest="action", required=True, metavar="list|get|find|export")
    actions.add_parser(
        "list",
        help="bases to download, and which of them are already here; works offline",
    )
    get = actions.add_parser("get", help="download a base into the workspace; continues where it stopped")
    get.add_argument("name", help="a name from the list, or a Hugging Face id (owner/name)")
    find = actions.add_parser("find", help="bases of ComfyUI and other programs, to use where they are")
    find.add_argument("folder", nargs="?", help="a folder to search now and in future; default: the usual places")
    export = actions.add_parser("export", help="write a base, with LoRA and embedding files in it, for other programs")
    export.add_argument("base", help='a base, or "BASE + FILE:WEIGHT + FILE"')
    export.add_argument("--format", default=BASE_FORMATS[0].name, help=", ".join(way.name for way in BASE_FORMATS))
    export.add_argument("--precision", default="fp16", choices=WHOLE)
    export.add_argument("--name", default="", help="name of the file or folder; default: that of the base")
    export.add_argument("--out", type=path_of, help="folder; default: the workspace's models folder")
    export.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    find.add_argument("--forget", action="store_true", help="stop searching that folder")


def run(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """List or download bases. Returns the exit status 0."""
    from engine.cli.output import EventPrinter

    console = EventPrinter()
    if options.action == "get":
        _get(options.name, workspace, control, console)
    elif options.action == "find":
        _find(options.folder, options.forget, workspace, control, console)
    elif options.action == "export":
        _export(options, workspace, control, console)
    else:
        _list(workspace, console)
    return 0


def _list(workspace: Workspace, console: Any) -> None:
    from engine.bases.catalog import catalog_bases, state_of

    for base in catalog_bases():
        state = state_of(workspace, base.id)
        said: str = state.kind
        if state.kind == "partly downloaded":
            said += f": {format_bytes(state.have)} of about {base.download_gb:.1f} GB"
        console.say(f"{base.name:<14}{base.title}: {said}")
        console.say(f"{'':<14}{base.use}")
        console.say(
            f"{'':<14}{base.resolution} px, card of {format_memory(base.min_vram_gib)} or more, download of about "
            f"{base.download_gb:.1f} GB, {base.id}"
        )
        console.say(f"{'':<14}Licence: {base.licence}. {base.licence_means}")
        if state.kind == "downloaded" and state.where is not None:
            console.say(f"{'':<14}In {state.where}")
    console.say("\nDownload one with: python -m engine.cli bases get NAME")


def _get(name: str, workspace: Workspace, control: Control, console: Any) -> None:
    from engine.bases.catalog import catalog_bases, hub_id, state_of
    from engine.bases.download import ask, download

    offered = catalog_bases()
    base = hub_id(name, offered)
    state = state_of(workspace, base)
    if state.kind == "downloaded":
        console.say(f"{base} is already downloaded: {state.where}")
        return
    for entry in offered:
        if entry.id == base:
            console.say(f"Licence: {entry.licence}. {entry.licence_means}")
    wanted = ask(workspace, base, control.token)
    files, target = counted(len(wanted.files), "file"), workspace.downloaded_base(base)
    console.say(f"{base}: {files}, {format_bytes(wanted.bytes)}, to {target}")
    where = download(workspace, wanted, control.token, console.progress)
    console.say(f"{base} is downloaded: {where}")
    console.say(f"Train with it: python -m engine.cli train --dataset NAME --base {base}")


def _export(options: argparse.Namespace, workspace: Workspace, control: Control, console: Any) -> None:
    from engine.export.base_export import export_merged

    made = export_merged(
        workspace,
        options.base,
        options.format,
        options.precision,
        options.name,
        options.out,
        options.overwrite,
        control.token,
        console.progress,
    )
    console.say(f"{made.path} ({format_bytes(made.bytes)}; {made.checked})")


def _find(folder: str | None, forget: bool, workspace: Workspace, control: Control, console: Any) -> None:
    from engine.bases.found_bases import find_everywhere, find_in
    from engine.bases.usual_places import forget_folder
    from engine.families.facts import FACTS

    if forget:
        if folder is None:
            raise UserError("Nothing was forgotten.", "--forget needs a folder.", "Write: bases find FOLDER --forget")
        forget_folder(workspace, Path(typed_path(folder)).expanduser().absolute())
        console.say(f"{folder} is no longer searched. Its files stay.")
        return
    token = control.token
    search = find_in(workspace, folder, token) if folder else find_everywhere(workspace, token)
    titles = {facts.name: facts.title for facts in FACTS}
    for family, bases in search.by_family().items():
        console.say(titles.get(family, "Family not read yet"))
        for base in bases:
            console.say(f"  {base.name} ({base.whose}, {format_bytes(base.bytes)})\n    {base.path}")
    for what, count in sorted(search.others.items()):
        console.say(f"Skipped: {count:,} × {what}")
    for missing in search.missing:
        console.say(f"{missing} was not found. If it is on another drive, connect it.")
    if search.ended == "time is up":
        console.say("The search took too long and was stopped. Search one folder instead: bases find FOLDER")
    if search.bases:
        console.say("Train with one: python -m engine.cli train --dataset NAME --base PATH")
    else:
        console.say("No base was found. Name a folder (bases find FOLDER), or download one (bases list).")
