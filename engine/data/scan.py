"""Reads a folder of images into samples and problems. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.data.file_usage import FileUsage, FileUsageRecorder
from engine.data.layouts import ORDER
from engine.data.read_images import read_images
from engine.data.recognized import recognize_folder
from engine.data.samples import Problem, Sample
from engine.disk.images import MIN_SIDE
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted

LAYOUTS = {layout.name: layout.title for layout in ORDER}


@dataclass(frozen=True)
class ScanReport:
    """The content of a folder. ``layout`` is a key of LAYOUTS."""

    samples: list[Sample]
    problems: list[Problem]
    layout: str
    source: Path
    condition_type: str | None = None
    """For ready-made maps: the type in condition.json, or else "own". None if there are no maps."""
    condition_parameters: dict[str, Any] = field(default_factory=dict)
    file_usage: FileUsage | None = None
    """How every file was used."""
    notes: list[str] = field(default_factory=list)
    """What else the user should know, as sentences."""
    doubts: list[str] = field(default_factory=list)
    """What the user should decide, as sentences."""

    @property
    def paired(self) -> bool:
        return self.condition_type is not None

    @property
    def captioned(self) -> int:
        """Number of samples with a caption that is not empty."""
        return sum(bool(sample.caption) for sample in self.samples)


def scan_folder(
    folder: Path | str,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
    workers: int | None = None,
    asked: Mapping[str, str] | None = None,
) -> ScanReport:
    """Recognizes the folder's layout and reads every image completely. Keeps everything in memory.

    For datasets of any size, use ``engine.data.importing``. Unusable files become problems.

    Raises:
        UserError: the folder itself cannot be used. Cancelled: the token was cancelled.
    """
    recognized = recognize_folder(folder, asked)
    samples: list[Sample] = []
    usage = FileUsageRecorder(recognized.reading, recognized.found)
    for problem in recognized.problems:
        usage.record(problem)
    for what in read_images(recognized, progress, token, min_side, workers):
        usage.record(what)
        if isinstance(what, Sample):
            samples.append(what)
        else:
            recognized.problems.append(what)
    if not samples:
        raise nothing_usable(recognized.folder, len(recognized.problems), recognized.problems[0])
    name, parameters = recognized.condition(any(sample.condition for sample in samples))
    reading = recognized.reading
    return ScanReport(
        samples,
        recognized.problems,
        recognized.layout.name,
        recognized.folder,
        name,
        parameters,
        usage.summary(recognized.note_file()),
        reading.notes,
        reading.doubts,
    )


def nothing_usable(folder: Path, count: int, first: Problem) -> UserError:
    """The error for a folder without a single usable image."""
    return UserError(
        f"None of the images in {folder} can be used.",
        f"The first of {counted(count, 'problem')}: {first.path.name}: {first.what} {first.why}",
        first.try_this,
    )
