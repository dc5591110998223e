"""Which checkpoints stay and how much of them, and removing what a killed process left behind. Loads no torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil

from engine.disk.durable import flush_folder
from engine.disk.space import folder_bytes
from engine.errors import UserError
from engine.runs.checkpoints import (
    REMOVING,
    STAR,
    STATE,
    TEMPORARY,
    Checkpoint,
    inspect_checkpoint,
    list_checkpoints,
    remove,
)


def star(run_folder: Path, step: int, wanted: bool = True) -> None:
    """Mark the checkpoint of a step to be kept whatever the settings say, or remove the mark.

    Raises:
        UserError: there is no such checkpoint.
    """
    for checkpoint in list_checkpoints(run_folder):
        if checkpoint.step == step:
            mark = checkpoint.folder / STAR
            mark.touch() if wanted else mark.unlink(missing_ok=True)
            flush_folder(checkpoint.folder)
            return
    raise UserError(
        f"There is no checkpoint of step {step:,}.",
        f"{run_folder.name} holds none that is whole; it may have been removed to save space.",
        "Choose one of the list.",
    )


def checkpoints_to_keep(
    checkpoints: list[Checkpoint], last: int, every: int = 0, best: int | None = None
) -> list[Checkpoint]:
    """Select the checkpoints that stay.

    Args:
        checkpoints: oldest first.
        last: how many of the newest stay; 0: all.
        every: those whose step is a multiple of this stay, too; 0: none.
        best: step of the best one, which stays, too.
    """
    if last <= 0:
        return checkpoints
    newest = checkpoints[-last:]
    return [c for c in checkpoints if c in newest or c.step == best or c.starred or (every and c.step % every == 0)]


def prune(run_folder: Path, last: int, best: int | None = None, every: int = 0) -> list[Checkpoint]:
    """Remove the checkpoints that do not stay (see ``checkpoints_to_keep``), and return them."""
    checkpoints = list_checkpoints(run_folder)
    steps = {checkpoint.step for checkpoint in checkpoints_to_keep(checkpoints, last, every, best)}
    extra = [checkpoint for checkpoint in checkpoints if checkpoint.step not in steps]
    for checkpoint in extra:
        remove(checkpoint.folder)
    return extra


def trim(run_folder: Path, keep: int = 1) -> tuple[int, int]:
    """Remove the resume state of all but the newest ``keep`` resumable checkpoints. Their weights stay.

    Returns:
        How many checkpoints were trimmed, and how many bytes that freed.
    """
    resumable = [checkpoint for checkpoint in list_checkpoints(run_folder) if checkpoint.resumable]
    extra = resumable[: len(resumable) - keep] if keep > 0 else resumable
    freed = 0
    for checkpoint in extra:
        state = checkpoint.folder / STATE
        freed += folder_bytes(state)
        remove(state)
    return len(extra), freed


def clean_up(run_folder: Path, own: bool = False) -> list[Path]:
    """Finish half-written checkpoints that only lack their name, and remove everything else that is half-written.

    Args:
        own: also what this process has written. Only while nothing in this process works on the run.

    Returns:
        What was removed.
    """
    removed = []
    checkpoints = run_folder / "checkpoints"
    for folder in sorted(checkpoints.glob(f"{TEMPORARY}*")):
        if _still_being_written(folder, own):
            continue
        target = folder.with_name(folder.name.removeprefix(TEMPORARY).split(".")[0])
        if isinstance(inspect_checkpoint(folder), Checkpoint) and not target.exists():
            os.replace(folder, target)
            flush_folder(target.parent)
        else:
            removed.append(folder)
    removed += sorted(checkpoints.glob(f"{REMOVING}*"))
    removed += sorted(checkpoints.glob(f"step-*/{REMOVING}*"))
    if own:
        removed += sorted((run_folder / "previews").glob(".drawing-*"))
        removed += sorted(run_folder.glob("*.tmp"))
    for path in removed:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return removed


def _still_being_written(folder: Path, own: bool) -> bool:
    """Whether the process whose id ends the folder's name is alive; for this process, unless ``own``."""
    _, _, number = folder.name.rpartition(".")
    if not number.isdigit():
        return False
    if int(number) == os.getpid():
        return not own
    return bool(psutil.pid_exists(int(number)))
