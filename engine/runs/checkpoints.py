"""Checkpoints on disk, read without torch: pages list them long before anything is loaded.

File sizes are compared every time, checksums when a checkpoint is used (``verify_files``). A damaged checkpoint is set
aside under another name, so that it is never offered again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.disk.durable import checksums, flush_folder
from engine.disk.in_use import remove_folder, rename
from engine.errors import UserError

FORMAT = 2
"""Format of checkpoint.json. Format 1 had sizes but no checksums, and no entry for the format."""
DESCRIPTION, STATE, WHY = "checkpoint.json", "training_state", "why.txt"
TEMPORARY, REMOVING, BROKEN = ".writing-", ".removing-", "broken-"
ASIDE = "aside-"
"""Before the names of preview images and evaluations of steps that a run has gone back from."""
STAR = "starred"
"""An empty file in a checkpoint's folder: the user wants to keep it."""
DECODER = "base_decoder/decoder.safetensors"
"""Next to the ControlNet's folder if the base's decoder was trained, too (objective.sd_locked off)."""
LORA, AVERAGED_LORA = "lora/lora.safetensors", "lora/lora_ema.safetensors"
"""The files of a run that trains a LoRA, fp32, with the names that other programs read."""
FACTORS, AVERAGED_FACTORS = "control_lora/factors.safetensors", "control_lora/factors_ema.safetensors"
"""Next to it if a Control-LoRA was trained: its factors, under diffusers names with .up and .down."""
OVER_START = "the net that the run started from"
"""Entry "over" of "control_lora" in a description: the factors are beside the weights of that net, not the base's."""


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint on disk."""

    folder: Path
    step: int
    images_seen: int
    has_ema: bool
    resumable: bool
    about: dict[str, Any]

    @property
    def trained_rank(self) -> int:
        """Rank of a Control-LoRA that was trained as one. 0: a whole ControlNet, an average of checkpoints, or factors
        that are no difference to the base."""
        trained = self.about.get("control_lora") or {}
        is_one = (self.folder / FACTORS).is_file() and trained.get("over") != OVER_START
        return int(trained.get("rank", 0)) if is_one else 0

    @property
    def noise_schedule(self) -> dict[str, Any]:
        """The noise schedule of its run, which may differ from the base's config; see ``NoiseProcess.schedule``."""
        schedule = self.about.get("noise_schedule")
        return dict(schedule) if isinstance(schedule, dict) else {}

    @property
    def controlnet(self) -> Path:
        """Folder of the weights to use: the EMA weights if the run keeps them."""
        return self.folder / ("controlnet_ema" if self.has_ema else "controlnet")

    @property
    def trained(self) -> str:
        """A noun phrase for people that names what the run has trained."""
        return str(self.about.get("trained", "a ControlNet"))

    @property
    def starred(self) -> bool:
        """Whether the user wants to keep it."""
        return (self.folder / STAR).is_file()


class DamagedCheckpoint(UserError):
    """Files of a checkpoint are not what was written."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.names = names
        super().__init__(
            f"The checkpoint {folder.name} is damaged.",
            f"{names[0]} has changed since it was written (its checksum differs).",
            "Choose another checkpoint; this one is no longer offered. If it happens again, check the disk for errors.",
        )


def description_checksum(description: Mapping[str, Any]) -> str:
    """Checksum of the contents of checkpoint.json, without its own "seal" entry."""
    rest = {key: value for key, value in description.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode("utf-8")).hexdigest()


def describe_files(folder: Path, sums: Mapping[Path, str]) -> dict[str, Any]:
    """Entries of checkpoint.json about the files in ``folder``: sizes and checksums."""
    names = {path.relative_to(folder).as_posix(): path for path in sorted(sums)}
    return {
        "format": FORMAT,
        "files": {name: path.stat().st_size for name, path in names.items()},
        "checksums": {name: sums[path] for name, path in names.items()},
    }


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in a folder. None if it is not whole, or written by a newer version of this app."""
    found = inspect_checkpoint(folder)
    return found if isinstance(found, Checkpoint) else None


def inspect_checkpoint(folder: Path) -> Checkpoint | str:
    """The checkpoint in a folder, or a clause that says why it cannot be used. Compares file names and sizes."""
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        written_as = int(about.get("format", 1))
        if written_as > FORMAT:
            return f"it was written by a newer version of this app (format {written_as}; this one reads {FORMAT})"
        step, images_seen, files = int(about["step"]), int(about["images_seen"]), dict(about["files"])
    except FileNotFoundError:
        return f"its {DESCRIPTION} is missing: it was not written completely"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its {DESCRIPTION} cannot be read"
    if "seal" in about and about["seal"] != description_checksum(about):
        return f"its {DESCRIPTION} has changed since it was written"
    weights = [name for name in files if not name.startswith(f"{STATE}/")]
    state = [name for name in files if name.startswith(f"{STATE}/")]
    wrong = next((name for name in weights if _size(folder / name) != files[name]), "")
    if wrong:
        return f"its file {wrong} is missing or shorter than it was written"
    return Checkpoint(
        folder=folder,
        step=step,
        images_seen=images_seen,
        has_ema=bool(about.get("has_ema")),
        resumable=bool(state) and all(_size(folder / name) == files[name] for name in state),
        about=about,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def is_whole(folder: Path) -> bool:
    """Whether a folder, whatever its name, holds a checkpoint from which a run can be resumed."""
    found = read_checkpoint(folder)
    return found is not None and found.resumable


def list_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """Whole checkpoints of a run, oldest first. Half-written ones are left out."""
    found = (read_checkpoint(folder) for folder in (run_folder / "checkpoints").glob("step-*"))
    return sorted((c for c in found if c is not None), key=lambda c: c.step)


def broken_checkpoints(run_folder: Path) -> list[str]:
    """A sentence for each checkpoint that exists but cannot be used."""
    sentences = []
    for folder in sorted((run_folder / "checkpoints").glob("*step-*")):
        if folder.name.startswith(BROKEN):
            why = "its files had changed since they were written"
            with contextlib.suppress(OSError):
                why = (folder / WHY).read_text(encoding="utf-8").strip()
            sentences.append(f"{folder.name.removeprefix(BROKEN)} was set aside: {why}.")
        elif folder.name.startswith("step-") and isinstance(found := inspect_checkpoint(folder), str):
            sentences.append(f"{folder.name} cannot be used: {found}.")
    return sentences


def newer_checkpoints(run_folder: Path) -> list[str]:
    """Names of checkpoints that a newer version of this app has written."""
    names = []
    for folder in sorted((run_folder / "checkpoints").glob("step-*")):
        found = inspect_checkpoint(folder)
        if isinstance(found, str) and "newer version" in found:
            names.append(folder.name)
    return names


def verify_files(folder: Path, part: str = "") -> None:
    """Compare files with their checksums. Checkpoints of older versions have none, and pass.

    Args:
        folder: of a checkpoint.
        part: check only files whose names begin so, for example "controlnet_ema/".

    Raises:
        DamagedCheckpoint: naming the files. OSError: the disk does not answer.
    """
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        sums = {name: str(known) for name, known in dict(about.get("checksums", {})).items() if name.startswith(part)}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return  # no checkpoint of this app, or one that is not offered anyway
    present = [
        name for name in sums if (folder / name).is_file()
    ]  # the resume state may have been removed (cleanup.trim)
    try:
        found = checksums([folder / name for name in present])
    except OSError as error:
        if error.errno != errno.EIO:  # EIO is a bad sector; other errors mean that the disk is gone
            raise
        raise DamagedCheckpoint(folder, ["A file"]) from error
    wrong = [name for name, now in zip(present, found, strict=True) if now != sums[name]]
    if wrong:
        raise DamagedCheckpoint(folder, wrong)


def require_intact(folder: Path, part: str = "") -> None:
    """Compare files with their checksums like ``verify_files``, and set a damaged checkpoint aside.

    Raises:
        DamagedCheckpoint: as above. OSError: the disk does not answer.
    """
    try:
        verify_files(folder, part)
    except DamagedCheckpoint as error:
        set_aside(folder, error.why.rstrip("."), error.names)
        raise


def set_aside(folder: Path, why: str, names: list[str] | None = None) -> Path:
    """Rename a broken checkpoint, or only its resume state if nothing else is broken. Returns the new path."""
    only_state = bool(names) and all(name.startswith(f"{STATE}/") for name in names or ())
    old = folder / STATE if only_state else folder
    target = _free_name(old, BROKEN)
    with contextlib.suppress(OSError):  # a program keeps a file open; the caller reports the damage
        rename(old, target)
        (target / WHY).write_text(why[:1].lower() + why[1:], encoding="utf-8")
    return target


def go_back(run_folder: Path, step: int) -> None:
    """Set all checkpoints of later steps aside, so that the run continues from this one. Nothing is deleted.

    So are their preview images and evaluations: they are made again with other weights.

    Args:
        step: 0: the run starts again from scratch.

    Raises:
        UserError: a program keeps one of their files open.
    """
    for checkpoint in list_checkpoints(run_folder):
        if checkpoint.step > step:
            set_aside(checkpoint.folder, f"the run went back to step {step:,}")
    left = [checkpoint.folder.name for checkpoint in list_checkpoints(run_folder) if checkpoint.step > step]
    if left:
        raise UserError(
            f"{run_folder.name} cannot go back to step {step:,}.",
            f"{left[0]} cannot be renamed: another program has one of its files open.",
            "Close that program and try again.",
        )
    for kind in ("previews/step-*", "evaluation/full-*"):
        for folder in run_folder.glob(kind):
            number = folder.name.rpartition("-")[2]
            if number.isdigit() and int(number) > step:
                with contextlib.suppress(OSError):  # a viewer has an image open: it is replaced when it is made again
                    rename(folder, _free_name(folder, ASIDE))


def _free_name(folder: Path, prefix: str) -> Path:
    """A name with this prefix that no folder beside it has."""
    names = [f"{prefix}{folder.name}", *(f"{prefix}{folder.name}-{number}" for number in range(2, 1000))]
    return next(folder.with_name(name) for name in names if not folder.with_name(name).exists())


def temporary_name(target: Path) -> Path:
    """Path of a checkpoint while it is written. The name ends in the id of the writing process."""
    return target.with_name(f"{TEMPORARY}{target.name}.{os.getpid()}")


def give_name(temporary: Path, target: Path) -> None:
    """Rename a whole checkpoint from its `temporary_name`. A broken one of that name is removed; its star stays.

    Raises:
        OSError: the system refuses it. ``temporary`` is kept, for `engine.runs.cleanup.clean_up` to finish.
    """
    if target.exists():
        starred = (target / STAR).is_file()
        remove(target)
        if starred:
            (temporary / STAR).touch()
    rename(temporary, target)
    flush_folder(target.parent)


def remove(folder: Path) -> None:
    """Remove a checkpoint's folder. It is renamed first: half of it must not look like a whole one."""
    doomed = folder.with_name(REMOVING + folder.name)
    rename(folder, doomed)
    remove_folder(doomed)
