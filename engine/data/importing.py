"""Imports a source as a dataset: recognizes it, downloads or unpacks it if needed, reads and indexes its images.

A folder of images is read in place. Everything else is downloaded or unpacked into ``datasets/NAME/pictures`` first.
Every stage continues where an earlier attempt stopped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from engine.data.account import Bookkeeper
from engine.data.dataset import Dataset
from engine.data.description import DESCRIPTION
from engine.data.import_config import ImportConfig
from engine.data.index import IndexWriter
from engine.data.layouts.folders import PLAIN
from engine.data.layouts.inventory import checked_search
from engine.data.layouts.model import FoundImage, Part, Reading
from engine.data.layouts.trainer_configs.files import UNDERSTOOD, is_config
from engine.data.layouts.words import IMAGE
from engine.data.samples import Problem, Sample
from engine.data.scan import RecognizedFolder, caption_of_found, read_images, recognize_folder
from engine.data.sources import source_of
from engine.data.sources.hub import hub_id
from engine.data.sources.urls import FAILURES
from engine.disk.durable import atomic_write_text
from engine.disk.images import MIN_SIDE
from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.workspace.paths import Workspace, safe_name

IMAGES = "pictures"
ORIGIN = "import.json"
FEW = 50
RECOGNITION_SECONDS = 4.0
_ARCHIVES = (".zip", ".7z", ".rar")


@dataclass(frozen=True)
class ImportResult:
    """The result of an import. ``notes`` are sentences for the user."""

    name: str
    folder: str
    found: str
    """The recognized kind of source, as text."""
    layout: str
    pictures: int
    captioned: int
    paired: bool
    problems: int
    new: int
    """Images that were downloaded or unpacked this time. 0 for a folder that is read in place."""
    present: int
    notes: list[str] = field(default_factory=list)
    failures: str = ""
    """Path of the CSV file with failed downloads. Empty if there is none."""
    doubts: list[str] = field(default_factory=list)
    """What was guessed and the user should look at, as sentences."""
    parts: list[Part] = field(default_factory=list)
    """The parts of the folder and what they were taken for."""
    account: list[str] = field(default_factory=list)
    """What became of every file, as sentences."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def suggest_name(place: str) -> str:
    """Suggests a dataset name for a source. Empty for an empty source."""
    bare = hub_id(place) or typed_path(place).rstrip("/\\")
    if not bare:
        return ""
    path = Path(bare).expanduser()
    return safe_name(path.name.split(".")[0] if path.is_file() else path.name)


def describe_source(place: str) -> str:
    """Describes a source by its names and headers only, a folder by its layout. Takes a few seconds at most.

    Raises:
        UserError: it is not a source that can be imported.
    """
    place = _clean(place)
    try:
        with _for_a_few_seconds():
            source = source_of(place)
            if source is not None:
                return source.title
            _refuse_archive(place)
            recognized = recognize_folder(place)
    except _TooLarge:
        return "a large folder, whose layout is recognized when it is read"
    return f"{recognized.layout.title}, {len(recognized.found):,} found"


def import_source(
    workspace: Workspace,
    place: str,
    name: str = "",
    config: ImportConfig | None = None,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
) -> ImportResult:
    """Creates a dataset from a source, or updates the one that was created from it.

    Raises:
        UserError: nothing usable is there, the name is taken, or the disk is full.
        Cancelled: the token was cancelled. What was downloaded and read is kept for the next attempt.
    """
    token = token or _Never()
    with checked_search(token.raise_if_cancelled):
        return _import(workspace, _clean(place), name, config or ImportConfig(), progress or _quiet, token, min_side)


def _import(
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
        _record_origin(workspace.dataset_folder(name), folder, origin)
        fetched = source.fetch(place, folder, config, progress, token)
    except OSError as error:
        raise UserError(
            f"{place} could not be imported completely.",
            f"The system says: {error.strerror or error} ({error.filename or folder}).",
            "Free some disk space or check the permissions, and import again: it continues where it stopped.",
        ) from error
    if not fetched.new + fetched.present:
        raise UserError(
            f"Nothing in {place} could be used.",
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
    asked = config.asked or _roles_before(workspace, name)
    recognized = recognize_folder(folder, asked)
    if not asked and (asked := _as_before(workspace, name, recognized)):
        recognized = recognize_folder(folder, asked)
    _refuse_unknown(config.asked, recognized.reading)
    captioned, any_map = 0, False
    books = Bookkeeper(recognized.reading, recognized.found)

    def read(writer: IndexWriter) -> Iterator[Sample | Problem]:
        nonlocal captioned, any_map
        images = read_images(recognized, progress, token, min_side, memory=writer)
        for what in chain(list(recognized.problems), images):
            if isinstance(what, Sample) and (unwanted := config.unwanted(what.width, what.height)):
                what = Problem(
                    what.image,
                    f"{what.image.name} was skipped.",
                    unwanted,
                    "Change the sizes of the import to include it.",
                )
            books.note(what)
            if isinstance(what, Sample):
                captioned += bool(what.caption)
                any_map = any_map or what.condition is not None
            yield what

    def about() -> dict[str, Any]:
        return {"roles": asked, "account": books.close(recognized.note_file()).as_dict()}

    dataset = Dataset.write(
        workspace, name, recognized.folder, recognized.layout.name, read, recognized.condition, origin, about
    )
    count, account, reading = dataset.count(), dataset.account, recognized.reading
    assert account is not None  # just written
    return ImportResult(
        name=dataset.name,
        folder=str(dataset.folder),
        found=recognized.layout.title,
        layout=recognized.layout.name,
        pictures=count,
        captioned=captioned,
        paired=any_map,
        problems=dataset.problem_count(),
        new=0,
        present=0,
        notes=[*reading.notes, *_advice_on_names(recognized.found, captioned), *_advice(count)],
        doubts=[] if asked else reading.doubts,
        parts=list(reading.parts.values()),
        account=account.sentences(),
    )


def _roles_before(workspace: Workspace, name: str) -> dict[str, str]:
    """What the user said when the dataset was read before."""
    folder = workspace.dataset_folder(name)
    return Dataset.open(folder).roles if (folder / DESCRIPTION).exists() else {}


def _as_before(workspace: Workspace, name: str, recognized: RecognizedFolder) -> dict[str, str]:
    """Roles for folders of images that an earlier version read, when it did not know splits yet."""
    folder = workspace.dataset_folder(name)
    before = Dataset.open(folder) if (folder / DESCRIPTION).exists() else None
    if before is None or before.account is not None or not before.layout == recognized.layout.name == PLAIN.name:
        return {}
    return {part.name: IMAGE for part in recognized.reading.parts.values() if part.kind == "split"}


def _refuse_unknown(asked: Mapping[str, str], reading: Reading) -> None:
    """Raises UserError if the user gave a role to something that is not there."""
    unknown = [name for name in asked if name not in reading.parts]
    if unknown:
        raise UserError(
            f"There is no {' and no '.join(unknown)} in {reading.root.name}.",
            f"Its parts are: {', '.join(reading.parts) or 'the images themselves, in one folder'}.",
            'Use one of these names in "What is what" (--roles), or leave it empty.',
        )


def first_pairs(place: str, roles: Mapping[str, str], count: int) -> list[FoundImage]:
    """The first images of a folder as they would be read with these roles, with their captions.

    Raises UserError if the folder cannot be used.
    """
    recognized = recognize_folder(_clean(place), roles)
    return [replace(item, caption=caption_of_found(item)) for item in recognized.found[:count]]


def question(place: str, config: ImportConfig | None = None) -> Reading | None:
    """What the user should decide before a folder is read: its parts, and the doubts. None: nothing, or no folder.

    Takes a few seconds at most. Raises UserError if the folder cannot be used.
    """
    place = _clean(place)
    if source_of(place) is not None or not Path(place).expanduser().is_dir():
        return None
    try:
        with _for_a_few_seconds():
            reading = recognize_folder(place, (config or ImportConfig()).asked).reading
    except _TooLarge:
        return None  # it is read as far as names tell, and the result says what was guessed
    return reading if reading.doubts else None


_SENTENCE = re.compile(r"(?:[^\W\d_]{2,}[ _\-,.]+){3,}[^\W\d_]{2,}")


def _advice_on_names(found: Sequence[FoundImage], captioned: int) -> list[str]:
    """A word on file names that look like captions, where there are no others."""
    names = [item.image.stem for item in found[:20]]
    if captioned or not names or sum(bool(_SENTENCE.search(name)) for name in names) < 0.6 * len(names):
        return []
    return ["No captions were found, but the file names look like some: Captions > All at once makes captions of them."]


def _advice(count: int) -> list[str]:
    if count == 1:
        return ["One image is enough to try the app, but not for training: a ControlNet needs thousands of pairs."]
    if count < FEW:
        return [f"{count:,} images are few: a ControlNet needs thousands of pairs to work on new images."]
    return []


def _record_origin(dataset_folder: Path, folder: Path, origin: str) -> None:
    """Records the source of a folder before filling it, so that a second attempt cannot mix two sources."""
    Dataset.check_name(dataset_folder, folder.absolute(), origin)
    note = dataset_folder / ORIGIN
    if note.exists():
        try:
            before = str(json.loads(note.read_text(encoding="utf-8"))["origin"])
        except (ValueError, KeyError, TypeError):
            before = "something else"
        if before != origin:
            raise UserError(
                f"There is already an unfinished dataset named {dataset_folder.name}.",
                f"Its source is {before}.",
                f"Choose another name, or delete {dataset_folder}.",
            )
    atomic_write_text(note, json.dumps({"origin": origin}, ensure_ascii=False))


def _clean(place: str) -> str:
    """The path, address or name that the user means."""
    bare = typed_path(place)
    if not bare:
        raise UserError("Nothing was chosen.", "The field is empty.", "Give the folder or the list of your images.")
    return bare


def _refuse_archive(place: str) -> None:
    path = Path(place).expanduser()
    if path.is_file() and path.name.lower().endswith(_ARCHIVES):
        raise UserError(
            f"{path.name} is an archive.", "Its images cannot be read in place.", "Unpack it and choose the folder."
        )
    if path.is_file() and not is_config(path):
        kinds = (
            "a .parquet, .csv or .tsv list with a URL column, a .parquet file with images, a .tar archive, or a "
            f"dataset config of {UNDERSTOOD}"
        )
        raise UserError(
            f"{path.name} cannot be imported.",
            f"Files that can be imported are {kinds}.",
            "Choose the folder with your images, or such a file.",
        )


@contextmanager
def _for_a_few_seconds() -> Iterator[None]:
    """Inside this context, a search that takes longer than RECOGNITION_SECONDS raises _TooLarge."""
    end = time.monotonic() + RECOGNITION_SECONDS

    def check() -> None:
        if time.monotonic() > end:
            raise _TooLarge

    with checked_search(check):
        yield


class _TooLarge(Exception):
    """Searching a folder took too long."""


class _Never:
    def raise_if_cancelled(self) -> None:
        return


def _quiet(done: int, total: int, label: str) -> None:
    return
