"""One file with the captions of many images: JSON, CSV, or text with a name and a caption in each line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from engine.data.layouts.columns import columns_of, roles_of
from engine.data.layouts.named_files import name_in
from engine.data.layouts.rows import rows_of
from engine.data.layouts.texts import caption_of
from engine.data.layouts.words import CAPTION, IMAGE, IMAGE_COLUMNS, same_name
from engine.disk.image_formats import is_image_name
from engine.disk.text import decode

_LARGEST_LIST = 256 << 20  # bytes
_SAMPLE = 50
_NAME_COLUMNS = (*IMAGE_COLUMNS, "id", "key", "name", "column 1")


def names_of(image: Path, folder: Path) -> Iterator[str]:
    """How a list may name an image: by its path or its name, with or without its ending."""
    relative = image.relative_to(folder)
    for path in (relative.as_posix(), image.name):
        yield "/" + same_name(path)
    yield same_name(relative)
    yield same_name(image.stem)


def written(name: str) -> Iterator[str]:
    """The forms of a name in a list, to be compared with ``names_of``: with its ending, then without."""
    name = name.replace("\\", "/").removeprefix("./")
    bare = name.rsplit("/", 1)[-1]
    for form in (name, bare):
        yield "/" + same_name(form)
    if "." not in bare or len(bare.rsplit(".", 1)[1]) > 5:
        yield same_name(name)
        yield same_name(bare)
    elif Path(bare).suffix.lower():
        yield same_name(bare.rsplit(".", 1)[0])


def captions_in(path: Path, known: set[str]) -> list[tuple[str, str]]:
    """(name of an image, caption) of each entry of a list. Empty if most of its entries name none.

    ``known``: the names of all images, as of ``names_of``.
    """

    def names_image(name: str) -> bool:
        return bool(known.intersection(written(name)))

    try:
        if path.stat().st_size > _LARGEST_LIST:
            return []
        found = _pairs(path)
        if not found or sum(names_image(name) for name, _ in found) < 0.5 * len(found):
            found = _table(path, names_image)
    except OSError:
        return []  # it stays unused, which the folder's file usage tells
    names = sum(is_image_name(caption) and len(caption.split()) == 1 for _, caption in found)
    return found if names < 0.5 * len(found) else []  # a list of pairs of images holds no captions


def _pairs(path: Path) -> list[tuple[str, str]]:
    """The entries of an object of JSON, or of lines with a name and a caption."""
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json1"):  # {"1.png": "a caption"} in each line
        items = (next(iter(row.items())) for _, row in rows_of(path) if isinstance(row, dict) and len(row) == 1)
        return [(str(name), caption) for name, value in items if (caption := caption_of(value))]
    if path.suffix.lower() in (".csv", ".tsv"):
        return []
    text = decode(path.read_bytes()).text
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return []
        entries = content.items() if isinstance(content, dict) else ()
        return [(str(name), caption) for name, value in entries if (caption := caption_of(value))]
    lines = [line.removeprefix("- ") for line in text.split("\n") if line.strip()]
    for separator in ("\t", "|", ": ", ":", ",", " "):
        pairs = [line.split(separator, 1) for line in lines]
        if all(len(pair) == 2 and pair[0].strip() for pair in pairs):
            return [(name.strip().strip('"'), caption.strip().strip('"')) for name, caption in pairs]
    return []


def _table(path: Path, names_image: Callable[[str], bool]) -> list[tuple[str, str]]:
    """The entries of a table whose columns are an image's name and its caption."""
    if path.suffix.lower() not in (".json", ".jsonl", ".ndjson", ".json1", ".csv", ".tsv"):
        return []
    sample = [row for _, row in islice(rows_of(path), _SAMPLE) if isinstance(row, dict)]
    columns = columns_of(sample, names_image)
    roles, _ = roles_of(columns, {}, _NAME_COLUMNS)
    image, caption = (next((name for name, one in roles.items() if one == role), None) for role in (IMAGE, CAPTION))
    if image is None or caption is None or columns[image].files < 0.5:
        return []
    found = []
    for _, row in rows_of(path):
        name = name_in(row.get(image)) if isinstance(row, dict) else None
        if isinstance(name, str) and (text := caption_of(row.get(caption))):
            found.append((name, text))
    return found
