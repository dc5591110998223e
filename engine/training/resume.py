"""Open a run's folder to resume it: clear away what a crash left, and find the newest checkpoint that is whole."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import UserError
from engine.jobs.events import Message
from engine.jobs.runner import Emit
from engine.runs.checkpoints import (
    Checkpoint,
    DamagedCheckpoint,
    broken_checkpoints,
    list_checkpoints,
    newer_checkpoints,
    require_intact,
    set_aside,
)
from engine.runs.cleanup import clean_up


def open_run(run_folder: Path, emit: Emit) -> Checkpoint | None:
    """The newest checkpoint whose checksums match and whose tensors are finite; None if the run starts from scratch.

    Damaged checkpoints are set aside, with a warning. Call once for each start, before anything is loaded.

    Raises:
        UserError: a newer version of this app has written checkpoints here; they are left alone.
    """
    clean_up(run_folder, own=True)
    newer = newer_checkpoints(run_folder)
    if newer:
        raise UserError(
            f"The run {run_folder.name} cannot continue in this version of the app.",
            f"Its checkpoint {newer[-1]} was written by a newer one.",
            f"Update the app; or, to continue from an older checkpoint, move {newer[-1]} out of the checkpoints "
            "folder.",
        )
    for sentence in broken_checkpoints(run_folder):
        emit(Message(f"The checkpoint {sentence}", "warning"))
    found_broken = False
    while True:
        resumable = [checkpoint for checkpoint in list_checkpoints(run_folder) if checkpoint.resumable]
        if not resumable:
            if found_broken:
                emit(Message("No complete checkpoint is left: the run starts from scratch.", "warning"))
            return None
        newest = resumable[-1]
        why = _check_and_set_aside(newest)
        if not why:
            return newest
        found_broken = True
        emit(Message(f"The checkpoint of step {newest.step:,} cannot be resumed: {why} It was set aside.", "warning"))


def _check_and_set_aside(checkpoint: Checkpoint) -> str:
    """Why a checkpoint cannot be resumed, as a sentence, after setting it aside; empty if it can."""
    try:
        require_intact(checkpoint.folder)
    except DamagedCheckpoint as error:
        return error.why
    for path in sorted(checkpoint.folder.rglob("*.safetensors")):
        name = path.relative_to(checkpoint.folder).as_posix()
        key = _first_broken(path)
        if key:
            why = f"{name} contains NaN or infinity (first in {key})."
            set_aside(checkpoint.folder, why.rstrip("."), [name])
            return why
    return ""


def _first_broken(path: Path) -> str:
    """Name of the first tensor in a file that is not finite or cannot be read; empty if there is none."""
    key = "its header"
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (the file is no dictionary)
                tensor = file.get_tensor(key)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    return key
    except SafetensorError:
        return key
    return ""
