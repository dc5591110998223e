"""Who uses the app's folder: another installer, the window, or a command."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping

from engine.install.console import Console, InstallError
from engine.install.layout import Layout

INSTALLING, UPDATING = "lock", "update-lock"
OPEN_APPS = "open"  # folder in .install with a file for every app that is open; engine/workspace/lock.py writes them
ASK = (
    "import json; from engine.workspace.lock import open_apps; "
    "print(json.dumps([[o.doing, o.address, o.pid, o.here, o.host] for o in open_apps()]))"
)


@contextlib.contextmanager
def only_one(layout: Layout, name: str = INSTALLING, console: Console | None = None) -> Iterator[None]:
    """Stop a second installer, e.g. after two double clicks. The lock is released even if this process is killed.

    Args:
        console: its children hold the lock, too: a pip that outlives a killed installer still writes into the
            environment. Not on Windows, whose locks belong to one process.
        name: INSTALLING, or UPDATING, which lasts while an update runs an installation.
    """
    layout.log.parent.mkdir(parents=True, exist_ok=True)
    with (layout.log.parent / name).open("a+", encoding="utf-8") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            what = "update" if name == UPDATING else "installation"
            raise InstallError(
                f"Another {what} is running in this folder.",
                "Wait for it, or close its window, then start again. One that was killed may need some minutes to end.",
            ) from error
        if console is None or sys.platform == "win32":
            yield
            return
        console.inherited = (file.fileno(),)
        try:
            yield
        finally:
            console.inherited = ()


def require_closed(layout: Layout, console: Console, environment: Mapping[str, str], must_know: bool = True) -> None:
    """Raise InstallError if a window or a command of this folder's app is open, on whichever workspace.

    Args:
        must_know: raise it, too, where that cannot be determined because the packages do not work.
    """
    notes = layout.log.parent / OPEN_APPS
    if not notes.is_dir() or not any(notes.iterdir()):
        return
    fix = f"Close every window and command of the app. If none is open, delete the folder {notes}."
    # Only the app's own packages can tell a living process from a later one with the same number.
    outcome = console.run([layout.python, "-c", ASK], environment, layout.root) if layout.python.exists() else None
    try:
        owners = json.loads(outcome.output.strip().splitlines()[-1]) if outcome and not outcome.code else None
    except (ValueError, IndexError):
        owners = None
    if owners is None and must_know:
        raise InstallError("Could not determine whether the app is open: its packages do not work.", fix)
    if owners:
        doing, address, pid, here, host = owners[0]
        who = f"{doing}{f' at {address}' if address else ''}, process {pid}{'' if here else f' on {host}'}"
        raise InstallError(f"The app is open ({who}). Its files cannot be replaced while it runs.", fix)
