"""Which checkpoints stay and how much of them, and removing what a killed process left behind. Loads no torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

from engine.disk.durable import flush_folder
from engine.disk.in_use import clear, is_in_use, remove_file
from engine.disk.space import folder_bytes
from engine.errors import UserError
from engine.runs.checkpoints import (
    REMOVING,
    STAR,
    STATE,
    TEMPORARY,
    Checkpoint,
    give_name,
    is_whole,
    list_checkpoints,
    read_checkpoint,
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
            mark.touch() if wanted else remove_file(mark)
            flush_folder(checkpoint.folder)
            return
    raise UserError(
        f"There is no checkpoint of step {step:,}.",
        f"{run_folder.name} has no complete one; it may have been removed to save space.",
        "Choose one from the list.",
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

    Raises:
        UserError: a program keeps a file of a whole checkpoint open, which cannot be renamed.
    """
    removed = []
    checkpoints = run_folder / "checkpoints"
    for folder in sorted(checkpoints.glob(f"{TEMPORARY}*")):
        if _still_being_written(folder, own):
            continue
        target = _target(folder)
        if not target.exists() and read_checkpoint(folder) or is_whole(folder) and not is_whole(target):
            _finish(folder, target)
        else:
            removed.append(folder)
    removed += sorted(checkpoints.glob(f"{REMOVING}*"))
    removed += sorted(checkpoints.glob(f"step-*/{REMOVING}*"))
    if own:
        removed += sorted((run_folder / "previews").glob(".drawing-*"))
        removed += sorted(run_folder.glob("*.tmp"))
    for path in removed:
        clear(path)  # what a program keeps open is removed the next time
    return removed


def name_others(run_folder: Path) -> None:
    """Name the whole checkpoints of this process that could not be renamed. Call it when none is being written."""
    for folder in sorted((run_folder / "checkpoints").glob(f"{TEMPORARY}*.{os.getpid()}")):
        if is_whole(folder) and not is_whole(_target(folder)):
            with contextlib.suppress(OSError):  # still in use: the next call, or the next start of the run
                give_name(folder, _target(folder))


def _target(temporary: Path) -> Path:
    return temporary.with_name(temporary.name.removeprefix(TEMPORARY).split(".")[0])


def _finish(folder: Path, target: Path) -> None:
    try:
        give_name(folder, target)
    except OSError as error:
        if not is_in_use(error):
            raise
        raise UserError(
            f"The checkpoint {target.name} of {target.parent.parent.name} is complete but could not be renamed yet.",
            f"Another program has one of its files open: a virus scanner, a backup or a viewer. {error.strerror}.",
            f"Close that program and try again. Or, to continue from an older checkpoint, delete {folder.name} "
            f"in {target.parent}.",
        ) from error


def _still_being_written(folder: Path, own: bool) -> bool:
    """Whether the process whose id ends the folder's name is alive; for this process, unless ``own``."""
    _, _, number = folder.name.rpartition(".")
    if not number.isdigit():
        return False
    if int(number) == os.getpid():
        return not own
    return bool(psutil.pid_exists(int(number)))
