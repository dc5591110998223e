"""What the user is told and asked before a source is imported: its kind, a name for it, and the roles of its parts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from engine.data.import_config import ImportConfig
from engine.data.layouts.inventory import UNREAD_ARCHIVES, checked_search
from engine.data.layouts.model import FoundImage, Reading
from engine.data.layouts.trainer_configs.files import UNDERSTOOD, is_config
from engine.data.read_images import caption_of_found
from engine.data.recognized import recognize_folder
from engine.data.sources import source_of
from engine.data.sources.hub import hub_id
from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.machine.units import counted
from engine.workspace.paths import in_hub_cache, safe_name

RECOGNITION_SECONDS = 4.0


def suggest_name(place: str) -> str:
    """Suggests a dataset name for a source. Empty for an empty source."""
    bare = hub_id(place) or typed_path(place).rstrip("/\\")
    if not bare:
        return ""
    path = Path(bare).expanduser()
    cache = next((one.name for one in (path, *path.parents[:2]) if one.name.startswith("datasets--")), "")
    if cache:  # in the Hub's cache
        return safe_name(cache.split("--")[-1])
    return safe_name(path.name.split(".")[0] if path.is_file() else path.name)


def describe_source(place: str) -> str:
    """Describes a source by its names and headers only, a folder by its layout. Takes a few seconds at most.

    Raises:
        UserError: it is not a source that can be imported.
    """
    place = typed_source(place)
    try:
        with _for_a_few_seconds():
            source = source_of(place)
            if source is not None:
                return source.title
            refuse_archive(place)
            recognized = recognize_folder(place)
    except _TooLarge:
        return "a large folder; its layout is recognized when it is read"
    return f"{recognized.layout.title}, {counted(len(recognized.found), 'image')}"


def question(place: str, config: ImportConfig | None = None) -> Reading | None:
    """The decisions that the user has to make before a folder is read. None: there are none, or it is not a folder.

    Takes a few seconds at most. Raises UserError if the folder cannot be used.
    """
    place = typed_source(place)
    if source_of(place) is not None or not Path(place).expanduser().is_dir():
        return None
    try:
        with _for_a_few_seconds():
            reading = recognize_folder(place, (config or ImportConfig()).asked).reading
    except _TooLarge:
        return None  # it is read by names alone, and the result says what was guessed
    return reading if reading.doubts else None


def first_pairs(place: str, roles: Mapping[str, str], count: int) -> list[FoundImage]:
    """The first images of a folder as they would be read with these roles, with their captions.

    Raises UserError if the folder cannot be used.
    """
    recognized = recognize_folder(typed_source(place), roles)
    return [replace(item, caption=caption_of_found(item)) for item in recognized.found[:count]]


def typed_source(place: str) -> str:
    """Clean up a typed path, address or Hub id."""
    bare = typed_path(place)
    if not bare:
        raise UserError("No images were chosen.", "The field is empty.", "Enter the folder or the list of your images.")
    return _in_hub_cache(bare)


def _in_hub_cache(place: str) -> str:
    """The files of a set in the Hub's cache, for the cache's folder of that set, or one that holds just it."""
    folder = Path(place).expanduser()
    try:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
        if len(inside) == 1 and inside[0].name.startswith("datasets--") and inside[0].is_dir():
            folder = inside[0]
        return str(in_hub_cache(folder)) if (folder / "blobs").is_dir() else place
    except OSError:
        return place  # reading the folder reports the cause


def refuse_archive(place: str) -> None:
    """Raise UserError if the place is a file that cannot be imported."""
    path = Path(place).expanduser()
    if path.is_file() and path.suffix.lower() in UNREAD_ARCHIVES:
        raise UserError(
            f"{path.name} is an archive.", "Its images cannot be read in place.", "Unpack it and choose the folder."
        )
    if path.is_file() and not is_config(path):
        kinds = (
            "a .parquet, .csv or .tsv list with a URL column, a .parquet file with images, a .tar or .zip archive, "
            f"or a dataset config of {UNDERSTOOD}"
        )
        raise UserError(
            f"{path.name} cannot be imported.",
            f"These files can be imported: {kinds}.",
            "Choose the folder with your images, or one of these files.",
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
