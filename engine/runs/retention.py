"""Which checkpoints stay, and what stays of them. Without torch."""

from __future__ import annotations

from pathlib import Path

from engine.disk.durable import flush_folder
from engine.errors import UserError
from engine.runs.checkpoints import STAR, STATE, Checkpoint, list_checkpoints, remove


def star(run_folder: Path, step: int, wanted: bool = True) -> None:
    """Mark the checkpoint of a step to be kept whatever the settings say, or take the mark away.

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


def kept(checkpoints: list[Checkpoint], last: int, every: int = 0, best: int | None = None) -> list[Checkpoint]:
    """Those that stay.

    Args:
        checkpoints: oldest first.
        last: how many of the newest; 0: all.
        every: also those whose step is a multiple of this; 0: none.
        best: step of the best one.
    """
    if last <= 0:
        return checkpoints
    newest = checkpoints[-last:]
    return [c for c in checkpoints if c in newest or c.step == best or c.starred or (every and c.step % every == 0)]


def prune(run_folder: Path, last: int, best: int | None = None, every: int = 0) -> list[Checkpoint]:
    """Remove the checkpoints that do not stay (see ``kept``); returns what is gone."""
    checkpoints = list_checkpoints(run_folder)
    stays = {checkpoint.step for checkpoint in kept(checkpoints, last, every, best)}
    extra = [checkpoint for checkpoint in checkpoints if checkpoint.step not in stays]
    for checkpoint in extra:
        remove(checkpoint.folder)
    return extra


def trim(run_folder: Path, keep: int = 1) -> tuple[int, int]:
    """Drop the resume state of all but the newest ``keep`` resumable checkpoints; their weights stay.

    Returns:
        How many checkpoints were trimmed, and how many bytes that freed.
    """
    resumable = [checkpoint for checkpoint in list_checkpoints(run_folder) if checkpoint.resumable]
    extra = resumable[: len(resumable) - keep] if keep > 0 else resumable
    freed = 0
    for checkpoint in extra:
        state = checkpoint.folder / STATE
        freed += size_of(state)
        remove(state)
    return len(extra), freed


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; what vanishes meanwhile does not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # removed while we looked
    return total
