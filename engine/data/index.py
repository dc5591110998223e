"""The index of a dataset: one row for each image, in an SQLite database."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.data.samples import Problem, Sample
from engine.disk.images import Inspected
from engine.disk.sqlite import connect

VERSION = 3  # of the tables, in SQLite's user_version; 0 and 1 lacked source, status and read_files, 2 weight
_SAMPLES = """
    position INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, image TEXT NOT NULL, caption TEXT NOT NULL,
    condition TEXT, width INTEGER NOT NULL, height INTEGER NOT NULL, digest TEXT NOT NULL,
    condition_digest TEXT NOT NULL, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    source TEXT NOT NULL DEFAULT '', status TEXT NOT NULL DEFAULT 'ready', weight REAL NOT NULL DEFAULT 1"""
_PROBLEMS = """
    position INTEGER PRIMARY KEY, path TEXT NOT NULL, what TEXT NOT NULL, why TEXT NOT NULL, try_this TEXT NOT NULL"""
_SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS samples ({_SAMPLES})",
    "CREATE TABLE IF NOT EXISTS maps (key TEXT PRIMARY KEY, made_by TEXT NOT NULL, digest TEXT NOT NULL)",
    f"CREATE TABLE IF NOT EXISTS problems ({_PROBLEMS})",
    # Facts about each file, so that a second scan, or one after a cancelled scan, only reads files that changed.
    """CREATE TABLE IF NOT EXISTS read_files (
        path TEXT PRIMARY KEY, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, width INTEGER NOT NULL,
        height INTEGER NOT NULL, digest TEXT NOT NULL, ground TEXT NOT NULL DEFAULT '',
        bits TEXT NOT NULL DEFAULT '', is_map INTEGER NOT NULL DEFAULT -1) WITHOUT ROWID""",
)
_ADDED = (
    ("samples", "source", "TEXT NOT NULL DEFAULT ''"),
    ("samples", "status", "TEXT NOT NULL DEFAULT 'ready'"),
    ("samples", "weight", "REAL NOT NULL DEFAULT 1"),
    ("read_files", "ground", "TEXT NOT NULL DEFAULT ''"),
    ("read_files", "bits", "TEXT NOT NULL DEFAULT ''"),
    ("read_files", "is_map", "INTEGER NOT NULL DEFAULT -1"),
)
"""Columns that tables of earlier versions lack, with their types and their values there."""
_COLUMNS = (
    "key, image, caption, condition, width, height, digest, condition_digest, bytes, mtime_ns, source, status, weight"
)
_INSERT = f"INSERT INTO {{}}samples (position, {_COLUMNS}) VALUES ({', '.join('?' * 14)})"

EVERY = ("", ())
NONE = ("WHERE 0", ())
WITH_OWN_MAP = ("WHERE condition IS NOT NULL", ())


def with_map_by(fingerprint: str) -> tuple[str, tuple[str, ...]]:
    """Selects the samples whose map was made by this spec from the current image."""
    return (
        "WHERE EXISTS (SELECT 1 FROM maps WHERE maps.key = samples.key AND made_by = ? "
        "AND maps.digest = samples.digest)",
        (fingerprint,),
    )


def smaller_than(side: int) -> tuple[str, tuple[Any, ...]]:
    """Selects the samples whose shorter side has fewer pixels than this."""
    return "WHERE MIN(width, height) < ?", (side,)


class Index:
    """Thread-safe: every call opens its own connection. ``where`` is one of the selections above."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, samples: Iterable[Sample], problems: Iterable[Problem]) -> None:
        """Replaces all rows in one transaction: readers see the old index or the new one."""
        with self.writing() as writer:
            for sample in samples:
                writer.add(sample)
            for problem in problems:
                writer.add(problem)
            writer.finish()

    @contextmanager
    def writing(self) -> Iterator[IndexWriter]:
        """Replaces all rows by ones that are added one at a time, however long that takes. Use it in one thread."""
        self.prepare()
        with connect(self.path) as connection:
            yield IndexWriter(connection)

    def prepare(self) -> None:
        """Creates the tables, or migrates those of an older version. Keeps their content."""
        with connect(self.path) as connection:
            for statement in _SCHEMA:
                connection.execute(statement)
            for table, name, type in _ADDED:
                if name not in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {type}")
            connection.execute(f"PRAGMA user_version = {VERSION}")

    def count(self, where: tuple[str, tuple[Any, ...]] = EVERY) -> int:
        """Number of samples. ``where``: a WHERE clause and its values, like EVERY."""
        with connect(self.path) as connection:
            return int(connection.execute(f"SELECT COUNT(*) FROM samples {where[0]}", where[1]).fetchone()[0])

    def usual_side(self) -> int:
        """The median of the samples' shorter sides, in pixels. 0 if there are none."""
        middle = self.count() // 2
        with connect(self.path) as connection:
            row = connection.execute(
                "SELECT MIN(width, height) FROM samples ORDER BY 1 LIMIT 1 OFFSET ?", (middle,)
            ).fetchone()
        return int(row[0]) if row else 0

    def samples(
        self, offset: int = 0, limit: int | None = None, where: tuple[str, tuple[Any, ...]] = EVERY
    ) -> list[Sample]:
        """Samples in the order of the scan. ``where``: as for ``count``; ``limit=None``: all from ``offset`` on."""
        return self._select(
            f"{where[0]} ORDER BY position LIMIT ? OFFSET ?", (*where[1], -1 if limit is None else limit, offset)
        )

    def sample(self, key: str) -> Sample:
        """Raises KeyError."""
        for sample in self._select("WHERE key = ?", (key,)):
            return sample
        raise KeyError(key)

    def problems(self, offset: int = 0, limit: int | None = None) -> list[Problem]:
        """The files that the scan could not use, in its order. ``limit=None``: all from ``offset`` on."""
        with connect(self.path) as connection:
            rows = connection.execute(
                "SELECT path, what, why, try_this FROM problems ORDER BY position LIMIT ? OFFSET ?",
                (-1 if limit is None else limit, offset),
            ).fetchall()
        return [Problem(Path(path), *rest) for path, *rest in rows]

    def map_states(self) -> dict[str, tuple[str, str]]:
        """The finished maps: key -> (fingerprint of the spec that made it, digest of the image)."""
        with connect(self.path) as connection:
            rows = connection.execute("SELECT key, made_by, digest FROM maps").fetchall()
        return {key: (made_by, digest) for key, made_by, digest in rows}

    def mark_maps(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Records finished maps: (key, fingerprint of the spec, digest of the image)."""
        with connect(self.path) as connection:
            connection.executemany("INSERT OR REPLACE INTO maps VALUES (?, ?, ?)", rows)

    def update_file(self, key: str, digest: str, size: int, mtime_ns: int) -> None:
        """Records that an image's file has changed since the scan."""
        with connect(self.path) as connection:
            connection.execute(
                "UPDATE samples SET digest = ?, bytes = ?, mtime_ns = ? WHERE key = ?", (digest, size, mtime_ns, key)
            )

    def move_paths(self, old: Path, new: Path) -> None:
        """Changes the paths in all rows from the folder ``old`` to ``new``, in one transaction."""
        before = str(old)
        with connect(self.path) as connection:
            for table, column in (("samples", "image"), ("samples", "condition"), ("read_files", "path")):
                change = f"UPDATE OR REPLACE {table} SET {column} = ? || substr({column}, ?)"
                values = (str(new), len(before) + 1, len(before), before)
                connection.execute(f"{change} WHERE substr({column}, 1, ?) = ?", values)

    def count_problems(self) -> int:
        with connect(self.path) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM problems").fetchone()[0])

    def _select(self, clause: str, values: tuple[Any, ...]) -> list[Sample]:
        with connect(self.path) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] < VERSION:
                self.prepare()
            rows = connection.execute(f"SELECT {_COLUMNS} FROM samples {clause}", values).fetchall()
        return [Sample(row[0], Path(row[1]), row[2], Path(row[3]) if row[3] else None, *row[4:]) for row in rows]


class IndexWriter:
    """Collects new rows next to the old ones, which ``finish`` replaces.

    Facts about files are saved as they come, so that a cancelled scan continues where it stopped.
    """

    COMMIT_SECONDS = 1.0  # work lost by a crash, and longest wait of other writers

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # SQLite keeps temporary tables on disk when they grow, and drops them with the connection.
        connection.execute(f"CREATE TEMP TABLE new_samples ({_SAMPLES})")
        connection.execute(f"CREATE TEMP TABLE new_problems ({_PROBLEMS})")
        self.samples = 0
        self.problems = 0
        self._saved = time.monotonic()

    def known(self, path: Path, size: int, mtime_ns: int, is_map: bool) -> Inspected | None:
        """The facts about this file, if its size and date are unchanged, and its role was the same."""
        row = self._connection.execute(
            "SELECT width, height, digest, ground, bits FROM read_files WHERE path = ? AND bytes = ? AND mtime_ns = ? "
            "AND is_map = ?",
            (str(path.absolute()), size, mtime_ns, is_map),
        ).fetchone()
        return Inspected(row[0], row[1], row[2], size, mtime_ns, row[3], row[4], is_map) if row else None

    def remember(self, path: Path, seen: Inspected) -> None:
        """Records the facts about a file."""
        self._connection.execute(
            "INSERT OR REPLACE INTO read_files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                str(path.absolute()),
                seen.bytes,
                seen.mtime_ns,
                seen.width,
                seen.height,
                seen.digest,
                seen.ground,
                seen.depth,
                seen.is_map,
            ),
        )
        if time.monotonic() - self._saved > self.COMMIT_SECONDS:
            self.save()

    def save(self) -> None:
        """Commits the recorded facts."""
        self._connection.commit()
        self._saved = time.monotonic()

    def add(self, what: Sample | Problem) -> None:
        """Adds a row. A later sample replaces an earlier one with the same key."""
        if isinstance(what, Sample):
            self._connection.execute(
                _INSERT.format("temp.new_").replace("INSERT", "INSERT OR REPLACE"), _row(self.samples, what)
            )
            self.samples += 1
        else:
            row = (self.problems, str(what.path), what.what, what.why, what.try_this)
            self._connection.execute("INSERT INTO temp.new_problems VALUES (?, ?, ?, ?, ?)", row)
            self.problems += 1

    def finish(self) -> None:
        """Replaces the old rows by the new ones in one transaction. Samples that are not ready keep their status."""
        run = self._connection.execute
        self.save()
        run(
            "UPDATE temp.new_samples SET status = (SELECT status FROM main.samples AS old WHERE old.key = "
            "new_samples.key) WHERE key IN (SELECT key FROM main.samples WHERE status <> 'ready')"
        )
        run("DELETE FROM main.samples")
        run("DELETE FROM main.problems")
        run(f"INSERT INTO main.samples (position, {_COLUMNS}) SELECT position, {_COLUMNS} FROM temp.new_samples")
        run("INSERT INTO main.problems SELECT * FROM temp.new_problems")
        # Without this, rows of deleted files would accumulate. Unusable files are read again anyway.
        run(
            "DELETE FROM read_files WHERE path NOT IN (SELECT image FROM main.samples) AND path NOT IN "
            "(SELECT condition FROM main.samples WHERE condition IS NOT NULL)"
        )
        self.save()


def _row(position: int, sample: Sample) -> tuple[Any, ...]:
    return (
        position,
        sample.key,
        str(sample.image.absolute()),
        sample.caption,
        str(sample.condition.absolute()) if sample.condition else None,
        sample.width,
        sample.height,
        sample.digest,
        sample.condition_digest,
        sample.bytes,
        sample.mtime_ns,
        sample.source,
        sample.status,
        sample.weight,
    )
