"""Imports a source as a dataset: recognizes it, downloads or unpacks it if needed, reads and indexes its images.

A folder of images is read in place. Everything else is downloaded or unpacked into ``datasets/NAME/pictures`` first.
Every stage continues where an earlier attempt stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from engine.data.before_import import refuse_archive, suggest_name, typed_source
from engine.data.dataset import Dataset
from engine.data.description import DESCRIPTION
from engine.data.file_usage import FileUsageRecorder, LeftOut, left_beside
from engine.data.import_config import ImportConfig
from engine.data.import_result import ImportResult, advice_on_names, advice_on_size
from engine.data.index import IndexWriter
from engine.data.layouts.folders import PLAIN
from engine.data.layouts.halves import LEFT, RIGHT
from engine.data.layouts.inventory import checked_search
from engine.data.layouts.model import Reading
from engine.data.layouts.words import IMAGE
from engine.data.read_images import read_images
from engine.data.recognized import RecognizedFolder, recognize_folder
from engine.data.samples import Problem, Sample
from engine.data.sources import ImageSource, source_of
from engine.data.sources.halves import halves_of
from engine.data.sources.hub import hub_id, on_hub
from engine.data.sources.urls import FAILURES
from engine.disk.durable import atomic_write_text
from engine.disk.images import MIN_SIDE
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.workspace.paths import Workspace, safe_name

IMAGES = "pictures"
ORIGIN = "import.json"


def import_source(
    workspace: Workspace,
    place: str,
    name: str = "",
    config: ImportConfig | None = None,
    progress: OnProgress | None = None,
    token: CancelToken | None = None,
    min_side: int = MIN_SIDE,
    origin: str = "",
) -> ImportResult:
    """Creates a dataset from a source, or updates the one that was created from it.

    Args:
        origin: where a downloaded source came from, as people read it. Empty: the source itself.

    Raises:
        UserError: nothing usable is there, the name is taken, or the disk is full.
        Cancelled: the token was cancelled. What was downloaded and read is kept for the next attempt.
    """
    token = token or _Never()
    with checked_search(token.raise_if_cancelled):
        made = _import(
            workspace, typed_source(place), name, config or ImportConfig(), progress or _quiet, token, min_side, origin
        )
    if name.strip() in ("", made.name):
        return made
    return replace(made, notes=[changed_name(name.strip(), made.name), *made.notes])


def changed_name(typed: str, name: str) -> str:
    """Tell that a dataset has another name than was typed, and why."""
    shown = typed if len(typed) <= 80 else f"{typed[:80]} …"
    return (
        f"The dataset is called {name} instead of {shown}: a name is also used for the folder, so it may have up "
        "to 60 letters, digits, dots, - and _, and must not be reserved by Windows."
    )


def _import(
    workspace: Workspace,
    place: str,
    name: str,
    config: ImportConfig,
    progress: OnProgress,
    token: CancelToken,
    min_side: int,
    origin: str,
) -> ImportResult:
    name = safe_name(name or suggest_name(place) or "pictures")
    rest = (config, progress, token, min_side)
    source = source_of(place)
    if source is not None:
        origin = origin or (on_hub(hub_id(place)) if hub_id(place) else _absolute(place))
        return _fetch(workspace, name, place, source, origin, *rest)
    refuse_archive(place)
    folder = Path(place).expanduser()
    recognized = recognize_folder(folder, config.asked or _roles_before(workspace, name))
    if any(item.halves for item in recognized.found) and not config.asked and _was_read_in_place(workspace, name):
        recognized = recognize_folder(folder, {LEFT: IMAGE, RIGHT: IMAGE})  # as an earlier version did
    if not any(item.halves for item in recognized.found):
        return _index(workspace, name, folder, "", *rest, recognized)
    _refuse_unknown(config.asked, recognized.reading)
    if _was_read_in_place(workspace, name) and Dataset.open(workspace.dataset_folder(name)).source == folder.absolute():
        raise UserError(
            f"{name} contains these images uncut.",
            "Images that are cut in two are stored in the dataset's own folder, so they need a new dataset.",
            "Choose another name, or delete the old dataset first.",
        )
    made = _fetch(workspace, name, place, halves_of(recognized), origin or _absolute(place), *rest, recognized)
    reading = recognized.reading
    return replace(made, doubts=[] if reading.asked else reading.doubts, parts=list(reading.parts.values()))


def _absolute(place: str) -> str:
    return str(Path(place).expanduser().absolute())


def _fetch(
    workspace: Workspace,
    name: str,
    place: str,
    source: ImageSource,
    origin: str,
    config: ImportConfig,
    progress: OnProgress,
    token: CancelToken,
    min_side: int,
    roles_of: RecognizedFolder | None = None,
) -> ImportResult:
    """Fill the dataset's own folder from a source, and index it. ``roles_of``: a folder whose roles are kept."""
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
    recognized = None
    if roles_of is not None:  # they name parts of that folder
        config = config.model_copy(update={"roles": ""})
        recognized = recognize_folder(folder, roles_of.reading.asked)
    source_folder = Path(place).expanduser()
    beside = () if fetched.used is None or not source_folder.is_dir() else left_beside(source_folder, fetched.used)
    result = _index(workspace, name, folder, origin, config, progress, token, min_side, recognized, beside)
    failures = folder.parent / FAILURES
    return replace(
        result,
        found=source.title,
        new=fetched.new,
        present=fetched.present,
        notes=[*fetched.sentences(), *result.notes],
        failures=str(failures) if failures.exists() else "",
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
    recognized: RecognizedFolder | None = None,
    beside: tuple[LeftOut, ...] = (),
) -> ImportResult:
    if recognized is None:
        recognized = recognize_folder(folder, config.asked or _roles_before(workspace, name))
    asked = dict(recognized.reading.asked)
    if not asked and (asked := _as_before(workspace, name, recognized)):
        recognized = recognize_folder(folder, asked)
    _refuse_unknown(config.asked, recognized.reading)
    captioned, any_map = 0, False
    usage = FileUsageRecorder(recognized.reading, recognized.found)

    def read(writer: IndexWriter) -> Iterator[Sample | Problem]:
        nonlocal captioned, any_map
        images = read_images(
            recognized, progress, token, min_side, memory=writer, old_ground=_reads_as_before(workspace, name)
        )
        for what in chain(list(recognized.problems), images):
            if isinstance(what, Sample) and (unwanted := config.unwanted(what.width, what.height)):
                what = Problem(
                    what.image,
                    f"{what.image.name} was skipped.",
                    unwanted,
                    "Change the size limits of the import to include it.",
                )
            usage.record(what)
            if isinstance(what, Sample):
                captioned += bool(what.caption)
                any_map = any_map or what.condition is not None
            yield what
        for problem in recognized.note_problems(any_map):
            usage.record(problem)
            yield problem

    def about() -> dict[str, Any]:
        return {"roles": asked, "account": usage.summary(recognized.note_file(), bool(origin), beside).as_dict()}

    dataset = Dataset.write(
        workspace, name, recognized.folder, recognized.layout.name, read, recognized.condition, origin, about
    )
    count, used, reading = dataset.count(), dataset.file_usage, recognized.reading
    assert used is not None  # just written
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
        notes=[*reading.notes, *advice_on_names(recognized.found, captioned), *advice_on_size(count)],
        doubts=[] if asked else reading.doubts,
        parts=list(reading.parts.values()),
        file_usage=used.sentences(),
    )


def _roles_before(workspace: Workspace, name: str) -> dict[str, str]:
    """The roles that the user assigned at an earlier import."""
    folder = workspace.dataset_folder(name)
    return Dataset.open(folder).roles if (folder / DESCRIPTION).exists() else {}


def _was_read_in_place(workspace: Workspace, name: str) -> bool:
    """Whether the dataset is there, and its images are the user's own files."""
    folder = workspace.dataset_folder(name)
    return (folder / DESCRIPTION).exists() and not Dataset.open(folder).origin


def _reads_as_before(workspace: Workspace, name: str) -> bool:
    folder = workspace.dataset_folder(name)
    return (folder / DESCRIPTION).exists() and Dataset.open(folder).old_ground


def _as_before(workspace: Workspace, name: str, recognized: RecognizedFolder) -> dict[str, str]:
    """Roles for folders of images that an earlier version read, when it did not know splits yet."""
    folder = workspace.dataset_folder(name)
    before = Dataset.open(folder) if (folder / DESCRIPTION).exists() else None
    if before is None or before.file_usage is not None or not before.layout == recognized.layout.name == PLAIN.name:
        return {}
    return {part.name: IMAGE for part in recognized.reading.parts.values() if part.kind == "split"}


def _refuse_unknown(asked: Mapping[str, str], reading: Reading) -> None:
    """Raises UserError if the user gave a role to something that is not there."""
    unknown = [name for name in asked if name not in reading.parts]
    if unknown:
        raise UserError(
            f"There is no {' and no '.join(unknown)} in {reading.root.name}.",
            f"Its parts are: {', '.join(reading.parts) or 'the images themselves, in one folder'}.",
            'Use one of these names in "Roles" (--roles), or leave it empty.',
        )


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


class _Never:
    def raise_if_cancelled(self) -> None:
        return


def _quiet(done: int, total: int, label: str) -> None:
    return
