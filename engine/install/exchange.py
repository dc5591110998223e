"""Exchanges the app's files for those of another version. A kill at any moment leaves what is needed to go back.

    .install/update/journal.json   exists from before the first change until the new version has passed its check
    .install/update/new/           the new files that are not in place yet
    .install/update/old/           the old files that have been replaced

What has been done is read from these folders, never from a flag. A directory changes in one rename, so `engine` with
this code is the old or the new one as a whole; for the moment between its two renames, install.sh and install.bat put
the old one back. A later version may have to read the journal of this one: keep its keys.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.install.console import InstallError
from engine.install.layout import Layout, until_free, write_atomically

KEPT = ("workspace", ".venv", ".install", ".git")
"""Entries of the app's folder that no version brings or replaces."""


def update_folder(layout: Layout) -> Path:
    """Where an update keeps its files until it ends."""
    return layout.log.parent / "update"


def new_folder(layout: Layout) -> Path:
    return update_folder(layout) / "new"


def old_folder(layout: Layout) -> Path:
    return update_folder(layout) / "old"


def previous_folder(layout: Layout) -> Path:
    """The app's files as they were before the last update from an archive, kept until the next one."""
    return layout.log.parent / "previous"


def kept_folder(layout: Layout) -> Path:
    """Files that lay among the app's and are in no newer version: perhaps the user's own, so no update deletes them."""
    return layout.log.parent / "kept"


def read_journal(layout: Layout) -> dict[str, Any] | None:
    """The journal of an update that has not ended. None if there is none. Raises InstallError if it is damaged."""
    try:
        return dict(json.loads((update_folder(layout) / "journal.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InstallError(
            f"An update was interrupted, and its notes cannot be read: {error}",
            f"Unpack the version that you had into this folder, and delete {update_folder(layout)}.",
        ) from error


def write_journal(layout: Layout, **entries: Any) -> None:
    """Note what is about to be changed. ``kind``: "git" or "archive"."""
    write_atomically(update_folder(layout) / "journal.json", json.dumps(entries, indent=2) + "\n")
    if hasattr(os, "sync"):
        os.sync()  # the new files and the journal, before the first old file is moved


def clear(layout: Layout) -> None:
    """End the update: remove the journal, then the rest of its folder."""
    (update_folder(layout) / "journal.json").unlink(missing_ok=True)
    shutil.rmtree(update_folder(layout), ignore_errors=True)


def exchange(layout: Layout, names: Sequence[str]) -> None:
    """Move these entries of the new version into place, and the old ones aside.

    Raises:
        OSError: a file is in use, or the disk is full. `undo` is then needed.
    """
    old_folder(layout).mkdir(parents=True, exist_ok=True)
    for name in names:
        here, new, old = layout.root / name, new_folder(layout) / name, old_folder(layout) / name
        if here.is_file() and new.is_file():
            # A file is replaced in one step: install.sh and install.bat are never missing.
            copy = old.with_name(name + ".tmp")
            shutil.copy2(here, copy)
            move(copy, old)
        elif os.path.lexists(here):
            move(here, old)
        move(new, here)


def undo(layout: Layout, names: Sequence[str], added: Sequence[str]) -> None:
    """Put the old entries back, from whatever point `exchange` or an earlier `undo` has reached.

    Args:
        names: the entries that were to be exchanged. added: those of them that did not exist before.
    """
    undone = update_folder(layout) / "undone"
    shutil.rmtree(undone, ignore_errors=True)
    undone.mkdir(parents=True)
    for name in names:
        here, new, old = layout.root / name, new_folder(layout) / name, old_folder(layout) / name
        if os.path.lexists(old):
            if os.path.lexists(here) and not (here.is_file() and old.is_file()):
                move(here, undone / name)
            move(old, here)
        elif name in added and os.path.lexists(here) and not os.path.lexists(new):
            move(here, undone / name)


def keep_previous(layout: Layout, own: Sequence[str]) -> None:
    """End a successful exchange: the old files are kept as the previous version, and ``own`` among them for good."""
    (update_folder(layout) / "journal.json").unlink()
    for name in own:
        target = kept_folder(layout) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        move(old_folder(layout) / name, target)
    shutil.rmtree(previous_folder(layout), ignore_errors=True)
    if not previous_folder(layout).exists():  # else a program has a file of it open; then these are not kept
        move(old_folder(layout), previous_folder(layout))
    clear(layout)


def move(source: Path, target: Path) -> None:
    """Rename, over a file that may exist. Waits while another program has something open in it (Windows)."""
    until_free(lambda: source.replace(target))
