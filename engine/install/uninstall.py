"""``--uninstall``: deletes what the installer has made, after asking. The workspace stays."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.install.console import Console, InstallError
from engine.install.exchange import kept_folder
from engine.install.in_use import only_one, require_closed
from engine.install.layout import Layout, delete
from engine.install.places import Owner, Place, amount, places, private_python, size_of
from engine.install.steps import remove_venv

LEFT = "remove"
"""In .install: install.bat deletes the private Python, which cannot delete the folder that it runs from on Windows."""


def uninstall(
    layout: Layout,
    console: Console,
    environment: Mapping[str, str],
    workspace: Path,
    agreed: bool = False,
    ask: Callable[[str], str] = input,
) -> int:
    """Delete what the installer has made. Returns 0, or 1 if the answer was no.

    Args:
        agreed: do not ask.

    Raises:
        InstallError: the app is open, or something cannot be deleted; what is left is named.
    """
    require_closed(layout, console, environment)
    going = [place for place in places(layout, workspace, environment) if place.owner is Owner.APP]
    going = [place for place in going if os.path.lexists(place.path)]
    if not going:
        console.say(f"Nothing is installed in {layout.root}.")
        return 0
    _require_outside(workspace, going)
    console.say("This will be deleted:")
    for place in going:
        console.say(f"  {amount(size_of(place.path, place.inside)):>8}  {place.title}: {place.path}")
    staying = [path for path in (workspace, kept_folder(layout)) if path.exists()]
    if staying:
        console.say("This stays:")
    for path in staying:
        console.say(f"            {path}")
    if not agreed and not _yes(ask):
        console.say("Nothing was deleted.")
        return 1
    with only_one(layout):
        require_closed(layout, console, environment)  # the answer may have taken long
        remove_venv(layout)
    for place in going:
        _delete(layout, place)
    console.say(f"Deleted. To remove the app itself, delete its folder, {layout.root}.")
    if layout.windows:
        console.say("A shortcut on the desktop stays: delete it.")
    if workspace.is_relative_to(layout.root) and workspace.exists():
        console.say(f"Your datasets, runs and models are in it: move {workspace} first.")
    return 0


def _require_outside(workspace: Path, going: Sequence[Place]) -> None:
    """Raise InstallError if deleting these places would delete the workspace, which somebody has put into one."""
    for place in going:
        if workspace.exists() and workspace.resolve().is_relative_to(place.path.resolve()):
            raise InstallError(
                f"The workspace {workspace} with your datasets and runs lies in {place.path}, which would be deleted.",
                "Move the workspace to another place, then start this again.",
            )


def _yes(ask: Callable[[str], str]) -> bool:
    try:
        return ask("Delete it? [y/N] ").strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        return False
    except EOFError as error:
        raise InstallError("There is no terminal to answer in.", "Add --yes to delete without asking.") from error


def _delete(layout: Layout, place: Place) -> None:
    """Delete a place, without the places inside it that stay."""
    try:
        if place.path == private_python(layout) and _runs_here(layout):
            (layout.log.parent / LEFT).touch()
        elif place.inside:
            for entry in place.path.iterdir():
                if entry not in place.inside and entry.name != LEFT:
                    delete(entry)
            if not any(place.path.iterdir()):
                place.path.rmdir()
        elif os.path.lexists(place.path):
            delete(place.path)
    except OSError as error:
        raise InstallError(
            f"{place.path} could not be deleted: {error.strerror or error}.",
            "Close every window of the app and every program that uses it, then start this again.",
        ) from error


def _runs_here(layout: Layout) -> bool:
    """Whether this process is the private Python, on a Windows that would not delete it."""
    return layout.windows and Path(sys.base_prefix).resolve().is_relative_to(private_python(layout).resolve())
