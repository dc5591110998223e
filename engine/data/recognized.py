"""Recognizes the layout of a folder, and how its maps were made. No image is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.conditions import registry
from engine.data.layouts import FolderLayout, FoundImage, Reading, recognize
from engine.data.layouts.inventory import UNREAD_ARCHIVES
from engine.data.layouts.trainer_configs.files import is_config
from engine.data.samples import Problem
from engine.disk.image_formats import SUPPORTED
from engine.disk.syntax import fault
from engine.disk.text import read_text
from engine.errors import UserError
from engine.machine.units import counted

CONDITION_NOTE = "condition.json"
"""Optional file beside ready-made maps: {"type": NAME, "parameters": {...}} says how they were made."""


@dataclass(frozen=True)
class RecognizedFolder:
    """A folder whose layout was recognized, and whose images were not read yet."""

    folder: Path
    layout: FolderLayout
    found: list[FoundImage]
    reading: Reading
    """Roles, doubts and what was left out."""

    @property
    def problems(self) -> list[Problem]:
        return self.reading.problems

    def note_file(self) -> list[Path]:
        """The file that says how the maps were made, if there is one."""
        note = self.folder / CONDITION_NOTE
        return [note] if note.is_file() and all(problem.path != note for problem in self.problems) else []

    def note_problems(self, paired: bool) -> list[Problem]:
        """The problem with ``note_file``, or none. Reading the file adds it to ``problems``."""
        known = len(self.problems)
        self.condition(paired)
        return self.problems[known:]

    def condition(self, paired: bool) -> tuple[str | None, dict[str, Any]]:
        """Type and parameters of the maps that came with the images, if any. A damaged note becomes a problem."""
        return _read_condition_note(self.folder, self.problems) if paired else (None, {})


def recognize_folder(folder: Path | str, asked: Mapping[str, str] | None = None) -> RecognizedFolder:
    """Recognizes the layout of a folder, or of the folders that a dataset config of another trainer names.

    ``asked``: roles of its parts, by their names. Raises UserError if the folder itself cannot be used.
    """
    folder = Path(folder).expanduser()
    if not is_config(folder):
        _check_folder(folder)
    try:
        layout, found, reading = recognize(folder, asked)
    except OSError as error:
        raise UserError(
            f"The folder {folder} could not be read completely.",
            f"The system says: {error.strerror or error} ({Path(error.filename or folder).name}).",
            "Check that its disk is still connected and that you are allowed to open it, then read it again.",
        ) from error
    if not found and not reading.problems:
        try_this = "Choose the folder with your images."
        if any(path.suffix.lower() in UNREAD_ARCHIVES for path in reading.inventory.archives):
            try_this = f"Unpack the archives ({', '.join(sorted(UNREAD_ARCHIVES))}) and choose the folder again."
        raise UserError(f"There are no images in {folder}.", _why_none(reading), try_this)
    return RecognizedFolder(reading.root, layout, found, reading)


def _why_none(reading: Reading) -> str:
    """Explain why a folder has no usable images."""
    unread = [
        counted(len(paths), f"{kind} file, which this app cannot read", f"{kind} files, which this app cannot read")
        for kind, paths in reading.inventory.unread.items()
    ]
    if reading.inventory.archives:
        unread.append(counted(len(reading.inventory.archives), "archive"))
    if not unread:
        return f"Neither the folder nor its subfolders contain an image ({SUPPORTED})."
    return f"It contains {' and '.join(unread)}, but no image in a supported format ({SUPPORTED})."


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise UserError(
            f"The folder {folder} does not exist.", "Nothing was found at this path.", "Check the spelling."
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is a file.", "A folder of images is needed.", "Choose the folder that contains it.")
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be opened.", f"The system says: {error.strerror}.", "Check its permissions."
        ) from error


def _said(error: Exception) -> str:
    """What is wrong with the file, behind a sentence; "" where that sentence says it."""
    if isinstance(error, json.JSONDecodeError | RecursionError):
        return f"; {fault(error)}"
    return f". {error.what} {error.why}".rstrip(".") if isinstance(error, UserError) else ""


def _read_condition_note(folder: Path, problems: list[Problem]) -> tuple[str, dict[str, Any]]:
    note = folder / CONDITION_NOTE
    if note.is_file():
        try:
            content = json.loads(read_text(note).text)
            kind = str(content["type"])
            stored = registry.stored_parameters(kind, dict(content.get("parameters", {})))
            registry.resolve_parameters(kind, stored)  # a type or parameter that this version does not have
            return kind, stored
        except (ValueError, KeyError, TypeError, RecursionError, OSError, UserError) as error:
            problem = Problem(
                note,
                f"{CONDITION_NOTE} cannot be read.",
                f"It should contain a type and its parameters{_said(error)}.",
                "Correct or delete it. Until then, the maps are treated as your own.",
            )
            problems += [problem] if problem not in problems else []  # it is read again later
    return "own", {}
