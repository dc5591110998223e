"""What a source is, and what sources share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.data.import_config import ImportConfig
from engine.data.layouts.model import files_below, image_files
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress


@dataclass
class Fetched:
    """What a source gave. The sentences are shown to people as they are."""

    new: int = 0
    present: int = 0
    """Were there already from an earlier try."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason -> how many."""
    notes: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, count: int = 1) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + count

    def sentences(self) -> list[str]:
        """Everything worth saying, the commonest reasons first."""
        reasons = sorted(self.left_out.items(), key=lambda item: -item[1])
        return [*self.notes, *(f"{count:,} left out: {reason}." for reason, count in reasons[:10])]


@dataclass(frozen=True)
class Source:
    """A kind of source.

    ``fits(place)`` looks at names and headers only; ``fetch(place, folder, config, progress, token)`` fills a folder
    with images and can be called again to go on where it stopped.
    """

    name: str
    title: str
    """What was found, in words for the window."""
    fits: Callable[[str], bool]
    fetch: Callable[[str, Path, ImportConfig, OnProgress, CancelToken], Fetched]


def files_of(place: str, endings: tuple[str, ...]) -> list[Path]:
    """The file itself, or the files with these endings below a folder without images; sorted."""
    path = Path(place).expanduser()
    if path.is_file():
        return [path] if path.name.lower().endswith(endings) else []
    if not path.is_dir() or next(image_files(path), None) is not None:
        return []
    return sorted(p for p in files_below(path, lambda name: name.lower().endswith(endings)) if p.is_file())


def need(module: str, reason: str) -> Any:
    """An optional package. Raises UserError with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"The package {module} is not installed.",
            f"It is needed {reason} ({error}).",
            f"Run install.sh or install.bat again, or: python -m pip install {module}",
        ) from error
