"""Reads the samples of a source into a dataset's index, and says what dataset.json keeps of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.data.description import BY_CONTRAST, FIRST_GROUNDS, INDEX, specify
from engine.data.index import Index, IndexWriter
from engine.data.samples import Problem, Sample, add_to_fingerprint
from engine.data.scan import nothing_usable


def index_source(
    folder: Path,
    source: Path,
    layout: str,
    read: Callable[[IndexWriter], Iterable[Sample | Problem]],
    made_by: Callable[[bool], tuple[str | None, dict[str, Any]]],
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the index of a dataset; readers see the old one until the end. Returns entries of dataset.json.

    Args:
        read, made_by: as for ``Dataset.write``.
        before: the dataset's description until now; empty for a new one.

    Raises:
        UserError: nothing can be used. OSError and sqlite3.Error: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = hashlib.blake2b(digest_size=16)
    first, paired = None, False
    with Index(folder / INDEX).writing() as writer:
        try:
            for what in read(writer):
                writer.add(what)
                if isinstance(what, Sample):
                    add_to_fingerprint(fingerprint, what)
                    paired = paired or what.condition is not None
                else:
                    first = first or what
        finally:
            writer.save()  # also after an error, so that the next scan does not read these files again
        if not writer.samples and first is not None:
            raise nothing_usable(source, writer.problems, first)
        type, parameters = made_by(paired)
        count = writer.samples
        writer.finish()
    condition = before.get("condition")
    if type and (condition is None or condition["provided"]):
        condition = asdict(specify(type, parameters, provided=True))
    elif condition and condition["provided"]:
        condition = None  # the maps that came with the images are gone
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "source": str(source),
        "layout": layout,
        "count": count,
        "fingerprint": fingerprint.hexdigest(),
        "condition": condition,
        "grounds": before.get("grounds", FIRST_GROUNDS) if before else BY_CONTRAST,
        "created": before.get("created", now),
        "updated": now,
    }
