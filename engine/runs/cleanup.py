"""What a killed process left behind in a run's folder: finished where it is whole, else removed. Without torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil

from engine.disk.durable import flush_folder
from engine.runs.checkpoints import REMOVING, TEMPORARY, Checkpoint, look


def sweep(run_folder: Path, own: bool = False) -> list[Path]:
    """Finish or remove what is half-written; returns what was removed.

    Args:
        own: also what this process has written; only where no work on this run is going on.
    """
    gone = []
    checkpoints = run_folder / "checkpoints"
    for folder in sorted(checkpoints.glob(f"{TEMPORARY}*")):
        if _alive(folder, own):
            continue
        target = folder.with_name(folder.name.removeprefix(TEMPORARY).split(".")[0])
        if isinstance(look(folder), Checkpoint) and not target.exists():
            os.replace(folder, target)  # whole: only the name was missing
            flush_folder(target.parent)
        else:
            gone.append(folder)
    gone += sorted(checkpoints.glob(f"{REMOVING}*"))
    gone += sorted(checkpoints.glob(f"step-*/{REMOVING}*"))
    if own:
        gone += sorted((run_folder / "previews").glob(".drawing-*"))
        gone += sorted(run_folder.glob("*.tmp"))
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return gone


def _alive(folder: Path, own: bool) -> bool:
    """Whether the process that writes this is still there."""
    _, _, number = folder.name.rpartition(".")
    if not number.isdigit():
        return False
    if int(number) == os.getpid():
        return not own
    return bool(psutil.pid_exists(int(number)))
