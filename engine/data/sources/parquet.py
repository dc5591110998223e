"""Parquet files that hold the images themselves: img2dataset's parquet output, and data sets of the Hub as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.data.import_config import ImportConfig
from engine.data.sources import columns
from engine.data.sources.model import Fetched, Source, files_of, need
from engine.data.sources.store import Refused, Store, name_for
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress

_ROWS = 32  # images at a time in memory
_RATIO, _FREE = 200, 256_000_000  # unpacked to packed, of a column that unpacks to so many bytes; as in tars.py


def fits(place: str) -> bool:
    return bool(files_of(place, (".parquet",)))


def open_parquet(path: Path) -> Any:
    """A pyarrow ParquetFile. Raises UserError for one that is damaged."""
    parquet = need("pyarrow.parquet", "to read parquet files")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are these
        raise UserError(
            f"{path.name} cannot be read.", f"It is no whole parquet file ({str(error)[:200]}).", "Download it again."
        ) from error


def refuse_bombs(path: Path, table: Any) -> None:
    """Raises UserError for a file whose cells unpack to far more than it holds: images hardly shrink."""
    about = table.metadata
    for group in range(about.num_row_groups):
        for column in range(about.num_columns):
            one = about.row_group(group).column(column)
            if one.total_uncompressed_size > max(_FREE, _RATIO * one.total_compressed_size):
                raise UserError(
                    f"{path.name} is not opened.",
                    f"Its column {one.path_in_schema} unpacks to more than {_RATIO} times its size: no image does.",
                    "Leave the file out, or ask its owner what is in it.",
                )


def image_columns(schema: Any) -> list[str]:
    """Names of the columns that hold files: bytes, or the Hub's struct of bytes and path."""
    import pyarrow as arrow

    def holds_bytes(kind: Any) -> bool:
        if arrow.types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))

    return [field.name for field in schema if holds_bytes(field.type)]


def content(value: Any) -> bytes | None:
    """The file in a cell."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) and value else None


def choose(names: list[str], files: list[str], config: ImportConfig) -> tuple[str | None, str | None, str | None]:
    """Columns of the image, the caption and the condition map."""
    condition = columns.column(files, columns.CONDITIONS, config.condition_column, "condition")
    others = [name for name in files if name != condition]
    image = columns.column(others, columns.IMAGES, config.image_column, "picture") or next(iter(others), None)
    texts = [name for name in names if name not in files]
    return image, columns.column(texts, columns.CAPTIONS, config.caption_column, "caption"), condition


def fetch(place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken) -> Fetched:
    """Writes out the images of all files, some rows at a time.

    Raises:
        UserError: there is no column of images. Cancelled: the token says so.
    """
    files = files_of(place, (".parquet",))
    tables = [open_parquet(path) for path in files]
    for path, table in zip(files, tables, strict=True):
        refuse_bombs(path, table)
    schema = tables[0].schema_arrow
    image, caption, condition = choose(schema.names, image_columns(schema), config)
    if image is None:
        raise UserError(
            f"{files[0].name} holds neither images nor addresses of images.",
            f"Its columns are: {', '.join(schema.names)}.",
            "Choose a list with a URL column, or a file with a column of images.",
        )
    total = sum(table.metadata.num_rows for table in tables)
    rows = _rows(files, tables, [name for name in (image, caption, condition, "url") if name and name in schema.names])
    fetched = Fetched(notes=[columns.told(image, caption, condition)])
    total = min(total, config.max_pictures or total)
    with Store(folder) as store:
        for done, (name, row) in enumerate(rows):
            token.raise_if_cancelled()
            if done >= total:
                break
            pair = content(row[image]), content(row[condition]) if condition else None
            keep(store, name, pair, columns.words(row.get(caption or "")), condition is not None, config, fetched, row)
            progress(done + 1, total, "Images unpacked")
    return fetched


def keep(
    store: Store,
    name: str,
    pair: tuple[bytes | None, bytes | None],
    caption: str,
    paired: bool,
    config: ImportConfig,
    fetched: Fetched,
    row: dict[str, Any],
) -> None:
    """One row's image, and its map, into the store; a reason counted where it cannot be."""
    image, condition = pair
    if store.has(name):
        fetched.present += 1
        return
    if image is None or (paired and condition is None):
        fetched.leave_out("rows without an image" if image is None else "rows without a condition map")
        return
    if max(len(image), len(condition or b"")) > config.max_megabytes * 1_000_000:
        fetched.leave_out("larger than the limit")
        return
    try:
        file_name = store.check(name, image, min_size=(config.min_width, config.min_height))
        map_name = store.check(name, condition, ".map") if condition else ""
    except Refused as refused:
        fetched.leave_out(str(refused))
        return
    store.note(name, file_name, caption, columns.words(row.get("url")), map_name)
    fetched.new += 1


def _rows(files: list[Path], tables: list[Any], names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, table in zip(files, tables, strict=True):
        number = 0
        for batch in table.iter_batches(batch_size=_ROWS, columns=names):
            for row in batch.to_pylist():
                yield name_for(f"{path.name}#{number}"), row
                number += 1


PARQUET = Source("parquet", "images in parquet files", fits, fetch)
