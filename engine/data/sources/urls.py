"""Lists of addresses with captions, such as LAION's: parquet, CSV or TSV with URL, TEXT, WIDTH and HEIGHT."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.import_config import ImportConfig
from engine.data.layouts.rows import csv_rows
from engine.data.sources import columns
from engine.data.sources.download import Wanted, download_all
from engine.data.sources.model import Fetched, Source, files_of
from engine.data.sources.parquet import open_parquet
from engine.data.sources.store import Store, name_for
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress

ENDINGS = (".parquet", ".csv", ".tsv")
FAILURES = "failures.csv"


@dataclass(frozen=True)
class Columns:
    """Their names in this list; empty or None where there is none."""

    url: str
    caption: str | None
    width: str | None
    height: str | None


def fits(place: str) -> bool:
    files = files_of(place, ENDINGS)
    try:
        return bool(files) and columns.column(_names(files[0]), columns.URLS) is not None
    except (UserError, OSError):
        return False  # told when it is opened for its images


def fetch(place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken) -> Fetched:
    """Downloads what the filters leave; failures are listed in failures.csv beside the folder of images.

    Raises:
        UserError: the list cannot be read. Cancelled: the token says so; what is there stays.
    """
    files = files_of(place, ENDINGS)
    named = choose(_names(files[0]), config)
    fetched = Fetched(notes=[columns.told(named.url, named.caption, kind="addresses")])
    kept, total = 0, 0
    for row in rows(files, named):
        if total % 10_000 == 0:
            token.raise_if_cancelled()
        total += 1
        kept += reason_against(row, named, config) is None
    if kept != total:
        fetched.notes.append(f"{kept:,} of {total:,} rows pass the filters on width, height and shape.")
    limit = min(kept, config.max_pictures or kept)
    with Store(folder) as store:
        download_all(
            _wanted(files, named, config, limit), limit, store, config, fetched, folder.parent / FAILURES, progress,
            token,
        )  # fmt: skip
    return fetched


def choose(names: list[str], config: ImportConfig) -> Columns:
    """The columns by their usual names or by those that were asked for."""
    url = columns.column(names, columns.URLS, config.image_column, "picture")
    assert url is not None  # such a list would not fit
    caption = columns.column(names, columns.CAPTIONS, config.caption_column, "caption")
    return Columns(url, caption, columns.column(names, columns.WIDTHS), columns.column(names, columns.HEIGHTS))


def reason_against(row: dict[str, Any], named: Columns, config: ImportConfig) -> str | None:
    """Why the list alone tells that a row is not wanted. Sizes that it does not tell are checked after the download."""
    width, height = (columns.number(row.get(name)) if name else 0.0 for name in (named.width, named.height))
    if (width and width < config.min_width) or (height and height < config.min_height):
        return "smaller than asked for"
    if config.max_aspect and width and height and max(width, height) / min(width, height) > config.max_aspect:
        return "longer than the longest shape asked for"
    return None


def _wanted(files: list[Path], named: Columns, config: ImportConfig, limit: int) -> Iterator[Wanted]:
    fitting = (row for row in rows(files, named) if reason_against(row, named, config) is None)
    for row in itertools.islice(fitting, limit):
        url = columns.words(row.get(named.url))
        yield Wanted(name_for(url), url, columns.words(row.get(named.caption)) if named.caption else "")


def rows(files: list[Path], named: Columns) -> Iterator[dict[str, Any]]:
    """All rows, a part of a file at a time in memory."""
    names = [name for name in (named.url, named.caption, named.width, named.height) if name]
    for path in files:
        if path.suffix.lower() == ".parquet":
            for batch in open_parquet(path).iter_batches(batch_size=4096, columns=names):
                yield from batch.to_pylist()
        else:
            yield from (row for _, row in csv_rows(path) if isinstance(row, dict))


def _names(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        return list(open_parquet(path).schema_arrow.names)
    first = next((row for _, row in csv_rows(path) if isinstance(row, dict)), {})
    return list(first)


URLS = Source("urls", "a list of addresses with captions", fits, fetch)
