"""Decisions about single images: to exclude them, or to replace them by a corrected copy in the dataset's folder.

    DATASET/treatment.sqlite   excluded: key, finding   corrections: key, part, original, value, width, height, finding
    DATASET/corrected/         the copies; the user's own files never change

Every decision can be undone. A correction is used only as long as its original is unchanged.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.data.samples import Sample
from engine.disk.dates import shows_changes
from engine.disk.sqlite import connect

DECISIONS = "treatment.sqlite"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS excluded (key TEXT PRIMARY KEY, finding TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS corrections (
        key TEXT, part TEXT, original TEXT NOT NULL, value TEXT NOT NULL, digest TEXT NOT NULL, bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL, finding TEXT NOT NULL, PRIMARY KEY (key, part))""",
)


@dataclass(frozen=True)
class Correction:
    """The replacement of a part ("picture", "map" or "caption") of one sample."""

    key: str
    part: str
    original: str
    """Digest of the original file, or the original caption. If it changes, the correction is not used."""
    value: str
    """Path of the copy in the dataset's folder, with forward slashes, or the new caption."""
    digest: str
    """Hash of the copy's file."""
    bytes: int
    mtime_ns: int
    finding: str


@dataclass(frozen=True)
class Decisions:
    """All decisions at one moment."""

    excluded: dict[str, str] = field(default_factory=dict)
    """Key of the sample -> name of the finding that it was excluded for."""
    corrections: dict[tuple[str, str], Correction] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """A hash of all decisions. Empty if there are none."""
        if not self.excluded and not self.corrections:
            return ""
        made = sorted((c.key, c.part, c.original, c.digest or c.value) for c in self.corrections.values())
        state = json.dumps([sorted(self.excluded), made]).encode()
        return hashlib.blake2b(state, digest_size=16).hexdigest()


class DecisionStore:
    """Thread-safe. Sees at the next call what another object has written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / DECISIONS
        self._read: tuple[Any, Decisions] = (None, Decisions())

    @property
    def current(self) -> Decisions:
        """The decisions. Reads the file only if it has changed."""
        try:
            facts = self.path.stat()
        except FileNotFoundError:
            return Decisions()
        seen = (facts.st_mtime_ns, facts.st_size)
        if self._read[0] != seen:
            with self._connection() as connection:
                excluded = dict(connection.execute("SELECT key, finding FROM excluded"))
                rows = [Correction(*row) for row in connection.execute("SELECT * FROM corrections")]
            self._read = (
                seen if shows_changes(facts.st_mtime_ns) else None,
                Decisions(excluded, {(row.key, row.part): row for row in rows}),
            )
        return self._read[1]

    def exclude(self, keys: Iterable[str], finding: str) -> None:
        """Leave samples out because of a finding. Those that are left out already keep their first finding."""
        with self._connection() as connection:
            connection.executemany("INSERT OR IGNORE INTO excluded VALUES (?, ?)", ((key, finding) for key in keys))

    def correct(self, corrections: Iterable[Correction]) -> None:
        """Add corrections. One for the same part of the same sample replaces the earlier one."""
        rows = (tuple(vars(correction).values()) for correction in corrections)
        with self._connection() as connection:
            connection.executemany("INSERT OR REPLACE INTO corrections VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def undo(self, finding: str) -> int:
        """Undoes the decisions made for a finding. Returns how many there were."""
        with self._connection() as connection:
            tables = ("excluded", "corrections")
            return sum(connection.execute(f"DELETE FROM {t} WHERE finding = ?", (finding,)).rowcount for t in tables)

    def without_excluded(self, where: tuple[str, tuple[Any, ...]]) -> tuple[str, tuple[Any, ...]]:
        """Narrow a selection of the index to samples that are not excluded."""
        excluded = self.current.excluded
        if not excluded:
            return where
        clause = "key NOT IN (SELECT value FROM json_each(?))"
        return f"{where[0]} AND {clause}" if where[0] else f"WHERE {clause}", (*where[1], json.dumps(list(excluded)))

    def apply(self, sample: Sample) -> Sample:
        """Returns the sample with its corrections.

        A corrected image keeps the original's digest: it has exactly the pixels that reading the original gives, so
        maps and caches of the original stay valid.
        """
        corrections = self.current.corrections
        if not corrections:
            return sample
        image, map, words = (corrections.get((sample.key, part)) for part in ("picture", "map", "caption"))
        if image and image.original == sample.digest:
            path = self.folder / image.value
            sample = replace(sample, image=path, bytes=image.bytes, mtime_ns=image.mtime_ns)
        if map and sample.condition is not None and map.original == sample.condition_digest:
            sample = replace(sample, condition=self.folder / map.value, condition_digest=map.digest)
        if words and words.original == sample.caption:
            sample = replace(sample, caption=words.value)
        return sample

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Uses no write-ahead log, so that the file's modification time shows every change."""
        try:
            with connect(self.path, _SCHEMA, wal=False) as connection:
                yield connection
        finally:
            self._read = (None, Decisions())  # timestamps may be too coarse to show the change
