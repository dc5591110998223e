"""What was decided about single images: left out, or replaced by a corrected copy in the dataset's own folder.

    DATASET/treatment.sqlite   excluded: key, finding   corrections: key, part, original, value, width, height, finding
    DATASET/corrected/         the copies; the user's own files never change

Every decision can be taken back. A correction holds only for the original that it was made of.
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
from engine.disk.sqlite import connect

TREATMENT = "treatment.sqlite"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS excluded (key TEXT PRIMARY KEY, finding TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS corrections (
        key TEXT, part TEXT, original TEXT NOT NULL, value TEXT NOT NULL, digest TEXT NOT NULL, bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL, finding TEXT NOT NULL, PRIMARY KEY (key, part))""",
)


@dataclass(frozen=True)
class Correction:
    """What stands in for a part ("picture", "map" or "caption") of one sample."""

    key: str
    part: str
    original: str
    """Digest of the file, or the caption, that it was made of: of another one it is not used."""
    value: str
    """Path of the copy inside the dataset's folder, with forward slashes; or the caption."""
    digest: str
    """Hash of the copy."""
    bytes: int
    mtime_ns: int
    finding: str


@dataclass(frozen=True)
class Decisions:
    """Everything at one moment."""

    excluded: dict[str, str] = field(default_factory=dict)
    """Key -> name of the finding."""
    corrections: dict[tuple[str, str], Correction] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """Changes with every decision; empty where there is none."""
        if not self.excluded and not self.corrections:
            return ""
        made = sorted((c.key, c.part, c.original, c.digest or c.value) for c in self.corrections.values())
        state = json.dumps([sorted(self.excluded), made]).encode()
        return hashlib.blake2b(state, digest_size=16).hexdigest()


class Treatment:
    """Any thread may use the object; what another object wrote is seen at the next call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / TREATMENT
        self._read: tuple[Any, Decisions] = (None, Decisions())

    @property
    def decisions(self) -> Decisions:
        try:
            facts = self.path.stat()
        except FileNotFoundError:
            return Decisions()
        seen = (facts.st_mtime_ns, facts.st_size)
        if self._read[0] != seen:
            with self._connection() as connection:
                excluded = dict(connection.execute("SELECT key, finding FROM excluded"))
                rows = [Correction(*row) for row in connection.execute("SELECT * FROM corrections")]
            self._read = (seen, Decisions(excluded, {(row.key, row.part): row for row in rows}))
        return self._read[1]

    def exclude(self, keys: Iterable[str], finding: str) -> None:
        with self._connection() as connection:
            connection.executemany("INSERT OR IGNORE INTO excluded VALUES (?, ?)", ((key, finding) for key in keys))

    def correct(self, corrections: Iterable[Correction]) -> None:
        rows = (tuple(vars(correction).values()) for correction in corrections)
        with self._connection() as connection:
            connection.executemany("INSERT OR REPLACE INTO corrections VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def undo(self, finding: str) -> int:
        """Takes back what was decided because of a finding; returns how many decisions those were."""
        with self._connection() as connection:
            tables = ("excluded", "corrections")
            return sum(connection.execute(f"DELETE FROM {t} WHERE finding = ?", (finding,)).rowcount for t in tables)

    def narrow(self, where: tuple[str, tuple[Any, ...]]) -> tuple[str, tuple[Any, ...]]:
        """An index's condition without the excluded samples."""
        excluded = self.decisions.excluded
        if not excluded:
            return where
        clause = "key NOT IN (SELECT value FROM json_each(?))"
        return f"{where[0]} AND {clause}" if where[0] else f"WHERE {clause}", (*where[1], json.dumps(list(excluded)))

    def applied(self, sample: Sample) -> Sample:
        """The sample with its corrections.

        A corrected image keeps the original's digest: it holds the very pixels that reading the original gives, so
        maps and caches made of the original stay right.
        """
        corrections = self.decisions.corrections
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
        """No write-ahead log: the file's modification time shows that something was decided."""
        try:
            with connect(self.path, _SCHEMA, wal=False) as connection:
                yield connection
        finally:
            self._read = (None, Decisions())  # the clock of a file system may stand still for milliseconds
