"""Images named in a list: metadata.jsonl or .csv (Hugging Face), train.jsonl, prompt.json (ControlNet), any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from engine.data.layouts.columns import SAMPLE, NoWeight, columns_of, roles_of, weight_in
from engine.data.layouts.folders import find_pairs
from engine.data.layouts.inventory import check_search
from engine.data.layouts.model import FolderLayout, FoundImage, Part, Reading, image_without_map, key
from engine.data.layouts.named_files import NamedFiles, name_in
from engine.data.layouts.rows import rows_of
from engine.data.layouts.texts import caption_of
from engine.data.layouts.words import (
    CAPTION,
    CAPTION_COLUMNS,
    IGNORED,
    IMAGE,
    IMAGE_COLUMNS,
    MAP,
    WEIGHT,
    role_in,
    role_of,
    validation_names,
)
from engine.data.samples import MOST_WEIGHT, Problem
from engine.machine.units import counted

METADATA = "metadata.jsonl"
_KNOWN = {
    METADATA: ("file_name", *IMAGE_COLUMNS),
    "metadata.csv": ("file_name", *IMAGE_COLUMNS),
    "train.jsonl": ("image", "image_path", "file_name", *IMAGE_COLUMNS),
    "prompt.json": ("target", *IMAGE_COLUMNS),
}
"""Names of usual lists, with the names of their columns of images."""
_BAD_LINES_TOLD = 5
_NOTE = "condition.json"  # no list; engine/data/recognized.py reads it
_MOST_LISTS = 200


def _layout(name: str, title: str, file: str) -> FolderLayout:
    def find(folder: Path, reading: Reading) -> list[FoundImage] | None:
        listing = next((path for path in _lists_in(folder, reading) if path.name.lower() == file), None)
        return None if listing is None else _find(folder, listing, reading)

    return FolderLayout(name, title, find)


def _any_list(folder: Path, reading: Reading) -> list[FoundImage] | None:
    """The images of all lists of other names that name images; of those for validation only if there is no other."""
    found: dict[Path, tuple[list[FoundImage], Reading]] = {}
    for listing in islice(_lists_in(folder, reading), _MOST_LISTS):
        attempt = reading.attempt()
        if listing.name.lower() in _KNOWN:
            continue
        if (named := _find(folder, listing, attempt)) is not None:
            found[listing] = named, attempt
        elif listing.name.lower() != _NOTE and (why := _broken(listing)):
            reading.problems.append(_unreadable(listing, why))
    kept = validation_names(listing.stem for listing in found)
    chosen = {key: one for key, one in found.items() if reading.role(key.name, role_in(kept, key.stem)) != IGNORED}
    images: dict[str, FoundImage] = {}
    for one, attempt in sorted(chosen.values(), key=lambda pair: not any(item.condition for item in pair[0])):
        images |= {item.key: item for item in one if item.key not in images}
        reading.accept(attempt)
    if len(found) > 1:
        for listing, (one, _) in found.items():
            role = IMAGE if listing in chosen else IGNORED
            reading.add(Part(listing.name, "list", role, len(one), tuple(item.key for item in one[:3])))
        said = [f"{path.name} ({'read' if path in chosen else 'left out'})" for path in found]
        reading.doubts.append(f"Several lists contain names of images: {', '.join(said)}.")
        taken = {path for item in images.values() for path in (item.image, item.condition)}
        reading.left_out = {
            reason: [path for path in paths if path not in taken] for reason, paths in reading.left_out.items()
        }
    return list(images.values()) if chosen else None


def _lists_in(folder: Path, reading: Reading) -> Iterator[Path]:
    """The lists in the folder itself, then those in its folders of images."""
    yield from reading.inventory.lists_in(folder)
    for inner in reading.inventory.folders_in(folder):
        if role_of(inner.name) == IMAGE:
            yield from reading.inventory.lists_in(inner)


def _find(folder: Path, listing: Path, reading: Reading) -> list[FoundImage] | None:
    """The images of a list. None if it does not name images."""
    files = NamedFiles(listing.parent, folder, reading.inventory)
    try:
        sample = [row for _, row in islice(rows_of(listing), SAMPLE) if isinstance(row, dict)]
    except OSError as error:
        reading.problems.append(_unreadable(listing, str(error.strerror or error)))
        return None
    columns = columns_of(sample, files.exists)
    known = listing.name.lower() in _KNOWN
    roles, doubts = roles_of(columns, reading.asked, _KNOWN.get(listing.name.lower(), IMAGE_COLUMNS))
    image = _column(roles, IMAGE)
    missing = image is not None and columns[image].files == 0 and not reading.asked
    if image is None or missing or (not known and columns[image].files < 0.5):
        if known and (missing or listing.name.lower().startswith("metadata")):
            why = "None of its rows names an image." if sample else _broken(listing)
            why = why or "None of its lines could be read as a row."
            if image is not None and missing:
                why = f"None of the images that it names exists, for example {columns[image].examples[0]}."
            reading.problems.append(_unreadable(listing, why))
        return None
    reading.lists.append(listing)
    reading.doubts += doubts
    unused = [name for name, column in columns.items() if roles[name] == IGNORED and column.count]
    if unused:
        reading.notes.append(f"Unused columns of {listing.name}: {', '.join(unused)}.")
    for name, column in columns.items():
        reading.add(Part(name, "column", roles[name], column.count, column.examples))
    return _images(folder, listing, roles, files, reading)


def _column(roles: dict[str, str], role: str) -> str | None:
    return next((name for name, given in roles.items() if given == role), None)


def _images(
    folder: Path, listing: Path, roles: dict[str, str], files: NamedFiles, reading: Reading
) -> list[FoundImage]:
    """The images of a list whose columns are known.

    If two rows name the same image, the later one counts.
    """
    by_role = {role: name for name, role in reversed(roles.items()) if role != IGNORED}  # the first of a role
    found: dict[str, FoundImage] = {}
    lines: dict[str, int] = {}
    bad: list[tuple[int, str]] = []
    several = again = 0
    for number, row in rows_of(listing):
        if number % 1000 == 0:
            check_search()
        try:
            name, item = _item(row, by_role, folder, files, reading)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            bad.append((number, _what_is_wrong(row, by_role, error)))
            continue
        several += isinstance(value := row.get(by_role.get(CAPTION, "")), list) and len(value) > 1
        before = found.get(name)
        if before is not None and before.condition != item.condition:
            reading.problems.append(_named_twice(listing, lines[name], number, before))
        again += before is not None and before.caption != item.caption
        found[name], lines[name] = item, number
    reading.problems += _bad_lines(listing, bad)
    if several:
        reading.notes.append(
            f"{counted(several, 'row')} of {listing.name} with several captions: the first one is used."
        )
    if again:
        reading.notes.append(
            f"{counted(again, 'row')} of {listing.name} whose image also has another row: the last caption is used."
        )
    items = list(found.values())
    if MAP not in by_role:
        items = _maps_from_folders(folder, items, reading)
    named = {item.image for item in items} | {item.condition for item in items}
    rest = [path for path in reading.inventory.images_below(folder) if path not in named]
    reading.leave_out(f"not named in {listing.name}", rest)
    if len(rest) > len(items) and not reading.asked:
        reading.doubts.append(
            f"{listing.name} names {counted(len(items), 'image')}; "
            f"{counted(len(rest), 'other was', 'others were')} left out."
        )
    return _all_or_none(items, listing, reading)


def _item(
    row: Any, by_role: Mapping[str, str], folder: Path, files: NamedFiles, reading: Reading
) -> tuple[str, FoundImage]:
    """The image of a row. Raises one of several errors for a row that names none, or gives no proper weight.

    Args:
        by_role: the columns.
    """
    if isinstance(row, ValueError):
        raise row
    image, map, caption = by_role[IMAGE], by_role.get(MAP), by_role.get(CAPTION)
    name = row.get(image) or next((row[other] for other in IMAGE_COLUMNS if row.get(other)), None)
    if not name:
        raise KeyError(image)
    path = files.find(name_in(name))
    relative = key(path.parent.resolve() / path.name, reading.root.resolve())  # the image may link to elsewhere
    value = name_in(row.get(map)) if map else None
    condition = files.find(value) if value else None
    address = row.get("url")
    texts = (caption_of(row.get(column)) for column in ([caption, *CAPTION_COLUMNS] if caption else ()))
    text = next((text for text in texts if text), None)
    found = FoundImage(relative, reading.root / relative, text or "", condition=condition)
    source = address if isinstance(address, str) else ""
    return relative, replace(found, source=source, weight=weight_in(row.get(by_role.get(WEIGHT))))


def _maps_from_folders(folder: Path, items: list[FoundImage], reading: Reading) -> list[FoundImage]:
    """Maps of images whose list names none, from a folder of maps with the same names, if there is one."""
    attempt = reading.attempt()
    pairs = {item.image: item.condition for item in find_pairs(folder, attempt) or () if item.condition}
    if not any(item.image in pairs for item in items):
        return items
    reading.doubts += attempt.doubts
    for part in attempt.parts.values():
        reading.add(part)
    return [replace(item, condition=pairs.get(item.image)) for item in items]


def _all_or_none(items: list[FoundImage], listing: Path, reading: Reading) -> list[FoundImage]:
    """If some rows have a map, the rows that have none become problems."""
    without = [item for item in items if item.condition is None]
    if len(without) == len(items):
        return items
    for item in without:
        reading.problems.append(
            image_without_map(
                item.image,
                f"Its line in {listing.name} names no condition map, but other lines do.",
                "Add the name of its condition map to the line.",
            )
        )
    return [item for item in items if item.condition is not None]


def _what_is_wrong(row: Any, by_role: Mapping[str, str], error: Exception) -> str:
    """Why a row cannot be used, as a sentence without its full stop."""
    image = by_role[IMAGE]
    if isinstance(row, ValueError):
        return f"It cannot be read: {row}"
    if isinstance(error, NoWeight):
        return f"Its {by_role[WEIGHT]} is not a number from 0 to {MOST_WEIGHT:g}: {str(error)[:60]}"
    if not isinstance(row, dict):
        return "It is not an object with names and values"
    if isinstance(error, KeyError):
        return f"Its {image} is empty or missing"
    if isinstance(error, OSError):
        return f"The system says: {error.strerror or error}"
    return f"Its {image} does not name a file in the folder: {str(row.get(image))[:60]}"


def _broken(listing: Path) -> str:
    """Why nothing in a list can be read, as a sentence. "": something can, or it is empty."""
    try:
        rows = [row for _, row in islice(rows_of(listing), SAMPLE)]
    except OSError as error:
        return f"The system says: {error.strerror or error}."
    first = rows[0] if rows and all(isinstance(row, ValueError) for row in rows) else None
    return f"None of its lines could be read as a row: {first}." if first else ""


def _bad_lines(listing: Path, bad: list[tuple[int, str]]) -> Iterator[Problem]:
    """One problem for each bad line, and one for all the others if there are many."""
    for number, why in bad[:_BAD_LINES_TOLD]:
        yield Problem(
            listing,
            f"Line {number} of {listing.name} cannot be used.",
            f"{why}.",
            "Correct the line.",
        )
    if rest := bad[_BAD_LINES_TOLD:]:
        yield Problem(
            listing,
            f"{counted(len(rest), 'more line')} of {listing.name} cannot be used.",
            f"The first is line {rest[0][0]}. {rest[0][1]}.",
            "Correct these lines.",
        )


def _named_twice(listing: Path, first: int, second: int, before: FoundImage) -> Problem:
    map = before.condition.name if before.condition else "no map"
    return Problem(
        listing,
        f"{listing.name} names {before.image.name} twice, with different maps.",
        f"Line {second} is used; line {first}, with {map}, is left out.",
        "Make a copy of the image under another name for the second map.",
    )


def _unreadable(listing: Path, why: str) -> Problem:
    return Problem(
        listing,
        f"{listing.name} was not used.",
        why,
        "Correct it and read the folder again. Until then, the roles are taken from the names of folders and files.",
    )


LISTS = (
    _layout("metadata", f"images listed in {METADATA}", METADATA),  # the most common one first
    _layout("metadata_csv", "images listed in metadata.csv", "metadata.csv"),
    _layout("train_jsonl", "images listed in train.jsonl", "train.jsonl"),
    _layout("prompt_json", "pairs listed in prompt.json, as for the original ControlNet", "prompt.json"),
    FolderLayout("listed", "images named in a list", _any_list),
)
