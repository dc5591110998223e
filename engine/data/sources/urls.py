"""Lists of image addresses with captions, such as LAION's: parquet, CSV or TSV with URL, TEXT, WIDTH and HEIGHT."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.import_config import ImportConfig
from engine.data.layouts.rows import csv_rows
from engine.data.layouts.words import CAPTION_COLUMNS
from engine.data.sources import columns
from engine.data.sources.download import Download, download_all
from engine.data.sources.image_store import ImageStore, name_for
from engine.data.sources.model import FetchResult, ImageSource, files_of
from engine.data.sources.parquet import image_columns, open_parquet, rows_of
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted, plural

ENDINGS = (".parquet", ".csv", ".tsv")
FAILURES = "failures.csv"


@dataclass(frozen=True)
class Columns:
    """The names of the columns in this list. None if there is none."""

    url: str
    caption: str | None
    width: str | None
    height: str | None


def fits(place: str) -> bool:
    """Whether the place is a table with a column of URLs, or a folder with some. False if it cannot be read."""
    files = files_of(place, ENDINGS)
    try:
        if not files or (files[0].suffix.lower() == ".parquet" and image_columns(open_parquet(files[0]).schema_arrow)):
            return False  # img2dataset's parquet files have the images, and still the column of addresses
        return columns.column(_names(files[0]), columns.URLS) is not None
    except (UserError, OSError):
        return False  # the error is reported when the file is opened for its images


def fetch(place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken) -> FetchResult:
    """Downloads the images that pass the filters. Failures are listed in failures.csv beside the folder of images.

    Raises:
        UserError: the list cannot be read. Cancelled: the token was cancelled; finished files are kept.
    """
    files = files_of(place, ENDINGS)
    named = choose(_names(files[0]), config)
    fetched = FetchResult(notes=[columns.describe_choice(named.url, named.caption, kind="addresses")], used=files)
    kept, total = 0, 0
    for row in rows(files, named):
        if total % 10_000 == 0:
            token.raise_if_cancelled()
        total += 1
        kept += rejection(row, named, config) is None
    if kept != total:
        fetched.notes.append(
            f"{kept:,} of {counted(total, 'row')} {plural(kept, 'passes', 'pass')} the filters for width, height and "
            "aspect ratio."
        )
    limit = min(kept, config.max_pictures or kept)
    with ImageStore(folder) as store:
        download_all(
            _wanted(files, named, config, limit),
            limit,
            store,
            config,
            fetched,
            folder.parent / FAILURES,
            progress,
            token,
        )
    return fetched


def choose(names: list[str], config: ImportConfig) -> Columns:
    """Finds the columns by their usual names, or by those in the settings."""
    url = columns.column(names, columns.URLS, config.image_column, "picture")
    assert url is not None  # otherwise the list would not fit
    caption = columns.column(names, CAPTION_COLUMNS, config.caption_column, "caption")
    return Columns(url, caption, columns.column(names, columns.WIDTHS), columns.column(names, columns.HEIGHTS))


def rejection(row: dict[str, Any], named: Columns, config: ImportConfig) -> str | None:
    """Why a row is skipped, as far as the list has sizes. Other sizes are checked after the download."""
    width, height = (columns.number(row.get(name)) if name else 0.0 for name in (named.width, named.height))
    if (width and width < config.min_width) or (height and height < config.min_height):
        return "smaller than the minimum size"
    if config.max_aspect and width and height and max(width, height) / min(width, height) > config.max_aspect:
        return "larger aspect ratio than allowed"
    return None


def _wanted(files: list[Path], named: Columns, config: ImportConfig, limit: int) -> Iterator[Download]:
    fitting = (row for row in rows(files, named) if rejection(row, named, config) is None)
    for row in itertools.islice(fitting, limit):
        url = columns.text(row.get(named.url))
        yield Download(name_for(url), url, columns.text(row.get(named.caption)) if named.caption else "")


def rows(files: list[Path], named: Columns) -> Iterator[dict[str, Any]]:
    """All rows, with one part of a file in memory at a time."""
    names = [name for name in (named.url, named.caption, named.width, named.height) if name]
    for path in files:
        if path.suffix.lower() == ".parquet":
            yield from rows_of(path, open_parquet(path), names, 4096)
        else:
            yield from (row for _, row in csv_rows(path) if isinstance(row, dict))


def _names(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        return list(open_parquet(path).schema_arrow.names)
    first = next((row for _, row in csv_rows(path) if isinstance(row, dict)), {})
    return list(first)


URLS = ImageSource("urls", "a list of web addresses with captions", fits, fetch)
