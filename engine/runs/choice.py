"""Which checkpoint of a run is meant, and notes on it for the user."""

from __future__ import annotations

from pathlib import Path

from engine.errors import UserError
from engine.runs.checkpoints import (
    DESCRIPTION,
    Checkpoint,
    broken_checkpoints,
    inspect_checkpoint,
    list_checkpoints,
)
from engine.runs.run import Run


def choose_checkpoint(run: Run, step: int | None = None) -> tuple[Checkpoint, list[str]]:
    """The checkpoint of a step, or the newest one; and sentences on newer ones that are damaged and left out.

    Raises:
        UserError: there is none, or it is damaged.
    """
    found = list_checkpoints(run.folder)
    broken = broken_checkpoints(run.folder)
    chosen = next((checkpoint for checkpoint in reversed(found) if step in (None, checkpoint.step)), None)
    if chosen is not None:
        return chosen, left_out(run.folder, chosen) if step is None else []
    damaged = next((sentence for sentence in broken if step is not None and _step(sentence) == step), "")
    steps = ", ".join(f"{checkpoint.step:,}" for checkpoint in found) or "none"
    raise UserError(
        f"{run.name} has no {'usable ' if broken else ''}checkpoint{'' if step is None else f' of step {step:,}'}.",
        f"{damaged + ' ' if damaged else ''}Complete ones on the disk: {steps}.",
        "Choose one of these steps, or continue training until the next is saved.",
    )


def left_out(folder: Path, newest: Checkpoint) -> list[str]:
    """Sentences on checkpoints in a run's folder that are damaged and newer than ``newest``, which is used instead."""
    newer = [sentence for sentence in broken_checkpoints(folder) if _step(sentence) > newest.step]
    return [f"{sentence} Step {newest.step:,} is used instead." for sentence in newer]


def refuse_run(folder: Path) -> None:
    """Refuse a run's folder where one ControlNet is asked for. The error names the newest checkpoint that is whole."""
    if (folder / "run.json").is_file() and (folder / "checkpoints").is_dir():
        damaged = " ".join(broken_checkpoints(folder))
        raise UserError(
            f"{folder.name} is a run.", f"A run has several ControlNets. {damaged}".strip(), _instead(folder)
        )


def refuse_damaged(folder: Path) -> None:
    """Refuse a checkpoint's folder if it is damaged. The error names the newest one of its run that is whole."""
    in_run = folder.parent.name == "checkpoints" and folder.name.startswith("step-")
    why = inspect_checkpoint(folder) if in_run or (folder / DESCRIPTION).is_file() else ""
    if why and isinstance(why, str):
        raise UserError(
            f"The checkpoint {folder.name} cannot be used.",
            f"{why[0].upper()}{why[1:]}.",
            _instead(folder.parents[1]) if in_run else "Choose another ControlNet.",
        )


def _instead(run: Path) -> str:
    found = list_checkpoints(run)
    return f"Choose {found[-1].folder}." if found else "Choose another ControlNet."


def require_controlnet(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint without a ControlNet.

    Raises:
        UserError: says what its run has trained.
    """
    if not (checkpoint.folder / "controlnet").is_dir():
        raise UserError(
            f"The checkpoint {checkpoint.folder.name} has no ControlNet.",
            f"Its run trained {checkpoint.trained}; only a ControlNet can be exported, compared and used to draw "
            "images.",
            "Choose a checkpoint of a run that trains a ControlNet.",
        )


def _step(sentence: str) -> int:
    """The step of the checkpoint that a sentence of ``broken_checkpoints`` is about. -1 if it names none."""
    digits = sentence.split(" ", 1)[0].removeprefix("step-").split("-")[0]
    return int(digits) if digits.isdigit() else -1
