"""Parquet files that contain images: img2dataset's parquet output, and files of datasets on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.data.import_config import ImportConfig
from engine.data.layouts.words import CAPTION, CAPTION_COLUMNS, IMAGE, IMAGE_COLUMNS, LABEL_COLUMNS, MAP, MAP_COLUMNS
from engine.data.sources import columns
from engine.data.sources.image_store import ImageStore, Refused, name_for
from engine.data.sources.model import FetchResult, ImageSource, files_of, refuse_pointer, require_package
from engine.disk.syntax import parquet_fault
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import MIB

_ROWS = 32  # images in memory at once
FREE_BYTES = 256_000_000
_RATIO = 200  # largest ratio of unpacked to packed size, for columns above FREE_BYTES (see tars.py)


def fits(place: str) -> bool:
    """Whether the place is a parquet file, or a folder with some and without images."""
    return bool(files_of(place, (".parquet",)))


def open_parquet(path: Path) -> Any:
    """Opens a pyarrow ParquetFile. Raises UserError if it is damaged."""
    parquet = require_package("pyarrow.parquet", "to read parquet files")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses
        refuse_pointer(path)
        raise unreadable(path) from error


def unreadable(path: Path) -> UserError:
    """The error for a parquet file that cannot be read."""
    return UserError(f"{path.name} cannot be read.", parquet_fault(path), "Download it again, or remove it.")


def rows_of(path: Path, table: Any, names: list[str], at_once: int) -> Iterator[dict[str, Any]]:
    """The rows of a file, some at once in memory. Raises UserError if it is damaged inside."""
    try:
        for batch in table.iter_batches(batch_size=at_once, columns=names):
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses
        raise unreadable(path) from error


def refuse_bombs(path: Path, table: Any) -> None:
    """Raises UserError for a file whose cells unpack to far more than the file's size: images hardly compress."""
    about = table.metadata
    for group in range(about.num_row_groups):
        for column in range(about.num_columns):
            one = about.row_group(group).column(column)
            if one.total_uncompressed_size > max(FREE_BYTES, _RATIO * one.total_compressed_size):
                raise UserError(
                    f"{path.name} was not opened.",
                    f"Its column {one.path_in_schema} unpacks to more than {_RATIO} times its size, unlike any image.",
                    "Remove the file, or ask its owner what is in it.",
                )


def image_columns(schema: Any) -> list[str]:
    """Names of the columns with files: bytes, or the Hub's struct of bytes and path."""
    import pyarrow as arrow

    def holds_bytes(kind: Any) -> bool:
        if arrow.types.is_list(kind) or arrow.types.is_large_list(kind):
            return holds_bytes(kind.value_type)
        if arrow.types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))

    return [field.name for field in schema if holds_bytes(field.type)]


def content(value: Any) -> bytes | None:
    """The file in a cell, the first one if there are several."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) and value else None


def choose(names: list[str], files: list[str], config: ImportConfig) -> tuple[str | None, str | None, str | None]:
    """The columns of the image, the caption and the condition map."""
    asked = config.image_column.lower()
    unasked = [name for name in files if name.lower() != asked]
    usual = MAP_COLUMNS if len(files) > 1 else ()  # a single column is the images, whatever it is called
    condition = columns.column(unasked, usual, config.condition_column, "condition")
    if condition is None and len(files) > 1:
        condition = columns.of_role(unasked, MAP) or columns.column(unasked, LABEL_COLUMNS)
    others = [name for name in files if name != condition]
    image = columns.column(others, IMAGE_COLUMNS, config.image_column, "picture")
    image = image or columns.of_role(others, IMAGE) or next(iter(others), None)
    texts = [name for name in names if name not in files]
    caption = columns.column(texts, CAPTION_COLUMNS, config.caption_column, "caption")
    return image, caption or columns.of_role(texts, CAPTION), condition


def fetch(place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken) -> FetchResult:
    """Writes the images of all files into a folder, a few rows at a time.

    Raises:
        UserError: there is no column with images. Cancelled: the token was cancelled.
    """
    files = files_of(place, (".parquet",))
    files, tables, notes = _opened(files)
    schema = tables[0].schema_arrow
    image, caption, condition = choose(schema.names, image_columns(schema), config)
    if image is None:
        raise UserError(
            f"{files[0].name} contains neither images nor web addresses of images.",
            f"Its columns are: {', '.join(schema.names)}.",
            "Choose a list with a URL column, or a file with a column of images.",
        )
    total = sum(table.metadata.num_rows for table in tables)
    fetched = FetchResult(notes=[*notes, columns.describe_choice(image, caption, condition)], used=files)
    rows = _rows(
        files, tables, fetched, [name for name in (image, caption, condition, "url") if name and name in schema.names]
    )
    left = [name for name in image_columns(schema) if name not in (image, condition)]
    if left:
        fetched.notes.append(f"Other columns also contain images and were left out: {', '.join(left)}.")
    total = min(total, config.max_pictures or total)
    with ImageStore(folder) as store:
        for done, (name, row) in enumerate(rows):
            token.raise_if_cancelled()
            if done >= total:
                break
            pair = content(row[image]), content(row[condition]) if condition else None
            store_row(
                store, name, pair, columns.text(row.get(caption or "")), condition is not None, config, fetched, row
            )
            progress(done + 1, total, "Images unpacked")
    return fetched


def _opened(files: list[Path]) -> tuple[list[Path], list[Any], list[str]]:
    """The files that can be read, opened, and a sentence on each of the others. Raises UserError if none can."""
    tables: dict[Path, Any] = {}
    damaged: list[UserError] = []
    for path in files:
        try:
            tables[path] = open_parquet(path)
        except UserError as error:
            damaged.append(error)
            continue
        refuse_bombs(path, tables[path])
    if not tables:
        raise damaged[0]
    return list(tables), list(tables.values()), [f"{error.what} {error.why} The others were read." for error in damaged]


def store_row(
    store: ImageStore,
    name: str,
    pair: tuple[bytes | None, bytes | None],
    caption: str,
    paired: bool,
    config: ImportConfig,
    fetched: FetchResult,
    row: dict[str, Any],
) -> None:
    """Stores the image of a row, and its map. Counts the reason if it is skipped."""
    image, condition = pair
    if store.has(name):
        fetched.present += 1
        return
    if image is None or (paired and condition is None):
        fetched.skip("rows without an image" if image is None else "rows without a condition map")
        return
    if max(len(image), len(condition or b"")) > config.max_megabytes * MIB:
        fetched.skip("larger than the limit")
        return
    try:
        file_name = store.put_image(name, image, min_size=(config.min_width, config.min_height))
        map_name = store.put_image(name, condition, ".map") if condition else ""
    except Refused as refused:
        fetched.skip(str(refused))
        return
    store.add_row(name, file_name, caption, columns.text(row.get("url")), map_name)
    fetched.new += 1


def _rows(
    files: list[Path], tables: list[Any], fetched: FetchResult, names: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of a file that is damaged inside, the rows before."""
    for path, table in zip(files, tables, strict=True):
        try:
            for number, row in enumerate(rows_of(path, table, names, _ROWS)):
                yield name_for(f"{path.name}#{number}"), row
        except UserError as error:
            fetched.notes.append(f"{error.what} {error.why} The rows before that were read.")


PARQUET = ImageSource("parquet", "images in parquet files", fits, fetch)
