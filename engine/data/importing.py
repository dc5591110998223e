"""From whatever a person points at to a dataset: recognised, fetched where it has to be, read, indexed.

A folder of images is read where it lies. Everything else is unpacked or downloaded into ``datasets/NAME/pictures``
first. Each stage goes on where an earlier try has stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from engine.data.dataset import Dataset
from engine.data.import_config import ImportConfig
from engine.data.index import Filling
from engine.data.layouts.model import patience
from engine.data.samples import Problem, Sample
from engine.data.scan import look_at, read_images
from engine.data.sources import source_of
from engine.data.sources.hub import hub_id
from engine.data.sources.urls import FAILURES
from engine.disk.durable import atomic_write_text
from engine.disk.images import MIN_SIDE
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.workspace.paths import Workspace, safe_name

IMAGES = "pictures"
ORIGIN = "import.json"
FEW = 50
PATIENCE_SECONDS = 4.0
_ARCHIVES = (".zip", ".7z", ".rar")


@dataclass(frozen=True)
class ImportResult:
    """What became of a source. ``notes`` are sentences for people."""

    name: str
    folder: str
    found: str
    """What the source was recognised as, in words."""
    layout: str
    pictures: int
    captioned: int
    paired: bool
    problems: int
    new: int
    """Images that were fetched or unpacked this time; 0 for a folder that is read where it lies."""
    present: int
    notes: list[str] = field(default_factory=list)
    failures: str = ""
    """Path of the CSV with what could not be downloaded; empty where there is none."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def suggest_name(place: str) -> str:
    """A dataset name for a source; empty for no source."""
    bare = hub_id(place) or place.strip().strip('"').rstrip("/\\")
    if not bare:
        return ""
    path = Path(bare).expanduser()
    return safe_name(path.name.split(".")[0] if path.is_file() else path.name)


def recognised(place: str) -> str:
    """What a source is, in words, from names and headers alone; for a folder, its layout. Takes a few seconds at most.

    Raises:
        UserError: there is nothing of this kind.
    """
    place = _bare(place)
    end = time.monotonic() + PATIENCE_SECONDS

    def ask() -> None:
        if time.monotonic() > end:
            raise _TooLarge

    try:
        with patience(ask):
            source = source_of(place)
            if source is not None:
                return source.title
            _refuse_archive(place)
            look = look_at(place)
    except _TooLarge:
        return "a large folder; what it holds is told when it is read"
    return f"{look.layout.title}, {len(look.found):,} found"


def import_source(
    workspace: Workspace,
    place: str,
    name: str = "",
    config: ImportConfig | None = None,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
) -> ImportResult:
    """Makes a dataset of a source, or brings the one that was made of it up to date.

    Raises:
        UserError: nothing usable is there, the name is taken, or the disk is full. Cancelled: the token says so; what
            was fetched and read is kept for the next try.
    """
    token = token or _Never()
    with patience(token.raise_if_cancelled):
        return _bring(workspace, _bare(place), name, config or ImportConfig(), progress or _quiet, token, min_side)


def _bring(
    workspace: Workspace,
    place: str,
    name: str,
    config: ImportConfig,
    progress: OnProgress,
    token: CancelToken,
    min_side: int,
) -> ImportResult:
    name = safe_name(name or suggest_name(place) or "pictures")
    source = source_of(place)
    if source is None:
        _refuse_archive(place)
        return _index(workspace, name, Path(place).expanduser(), "", config, progress, token, min_side)
    origin = f"{hub_id(place)} on Hugging Face" if hub_id(place) else str(Path(place).expanduser().absolute())
    folder = workspace.dataset_folder(name) / IMAGES
    try:
        _claim(workspace.dataset_folder(name), folder, origin)
        fetched = source.fetch(place, folder, config, progress, token)
    except OSError as error:
        raise UserError(
            f"{place} could not be brought in whole.",
            f"The system says: {error.strerror or error} ({error.filename or folder}).",
            "Make room on the disk or check its permissions, and import again: it goes on where it stopped.",
        ) from error
    if not fetched.new + fetched.present:
        raise UserError(
            f"Nothing of {place} could be used.",
            " ".join(fetched.sentences()),
            f"See {folder.parent / FAILURES}." if (folder.parent / FAILURES).exists() else "Choose another source.",
        )
    result = _index(workspace, name, folder, origin, config, progress, token, min_side)
    failures = folder.parent / FAILURES
    return ImportResult(
        **{
            **asdict(result),
            "found": source.title,
            "new": fetched.new,
            "present": fetched.present,
            "notes": [*fetched.sentences(), *result.notes],
            "failures": str(failures) if failures.exists() else "",
        }
    )


def _index(
    workspace: Workspace,
    name: str,
    folder: Path,
    origin: str,
    config: ImportConfig,
    progress: OnProgress,
    token: CancelToken,
    min_side: int,
) -> ImportResult:
    look = look_at(folder)
    captioned, any_map = 0, False

    def read(filling: Filling) -> Iterator[Sample | Problem]:
        nonlocal captioned, any_map
        told = read_images(look, progress, token, min_side, memory=filling)
        for what in chain(look.problems, told):
            if isinstance(what, Sample) and (unwanted := config.unwanted(what.width, what.height)):
                yield Problem(
                    what.image, f"{what.image.name} was left out.", unwanted, "Change the import's sizes to take it in."
                )
                continue
            if isinstance(what, Sample):
                captioned += bool(what.caption)
                any_map = any_map or what.condition is not None
            yield what

    dataset = Dataset.write(workspace, name, folder, look.layout.name, read, look.condition, origin)
    count = dataset.count()
    return ImportResult(
        name=dataset.name,
        folder=str(dataset.folder),
        found=look.layout.title,
        layout=look.layout.name,
        pictures=count,
        captioned=captioned,
        paired=any_map,
        problems=dataset.problem_count(),
        new=0,
        present=0,
        notes=_advice(count),
    )


def _advice(count: int) -> list[str]:
    if count == 1:
        return ["One image is enough to try the window, not to learn from: a ControlNet needs thousands of pairs."]
    if count < FEW:
        return [f"{count:,} images are few: a ControlNet needs thousands of pairs to work on new ones."]
    return []


def _claim(dataset_folder: Path, folder: Path, origin: str) -> None:
    """Notes what a folder is filled from before it is filled, so that a second try cannot mix two sources."""
    Dataset.check_name(dataset_folder, folder.absolute(), origin)
    note = dataset_folder / ORIGIN
    if note.exists():
        try:
            before = str(json.loads(note.read_text(encoding="utf-8"))["origin"])
        except (ValueError, KeyError, TypeError):
            before = "something else"
        if before != origin:
            raise UserError(
                f"There is a half-finished dataset named {dataset_folder.name} already.",
                f"It was begun from {before}.",
                f"Choose another name, or delete {dataset_folder}.",
            )
    atomic_write_text(note, json.dumps({"origin": origin}, ensure_ascii=False))


def _bare(place: str) -> str:
    """As people paste it: with quotation marks, or as an address of a file."""
    bare = place.strip().strip('"').strip("'")
    if bare.lower().startswith("file://"):
        from urllib.parse import urlsplit
        from urllib.request import url2pathname

        bare = url2pathname(urlsplit(bare).path)
    if not bare:
        raise UserError("Nothing was chosen.", "The box is empty.", "Give the folder or the list of your images.")
    return bare


def _refuse_archive(place: str) -> None:
    path = Path(place).expanduser()
    if path.is_file() and path.name.lower().endswith(_ARCHIVES):
        raise UserError(
            f"{path.name} is packed.", "The images in it cannot be read in place.", "Unpack it and choose its folder."
        )
    if path.is_file():
        kinds = "a .parquet, .csv or .tsv list with a URL column, a .parquet file with images, or a .tar archive"
        raise UserError(
            f"{path.name} is not something that can be imported.",
            f"Of single files there can be {kinds}.",
            "Choose the folder with your images, or such a file.",
        )


class _TooLarge(Exception):
    """A folder could not be looked through in time."""


class _Never:
    def raise_if_cancelled(self) -> None:
        return


def _quiet(done: int, total: int, label: str) -> None:
    return
