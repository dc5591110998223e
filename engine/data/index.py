"""The table behind a dataset: one row an image in the standard library's SQLite."""

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

VERSION = 2  # of the tables, in SQLite's user_version; 0 and 1 had neither source nor status nor read_files
_SAMPLES = """
    position INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, image TEXT NOT NULL, caption TEXT NOT NULL,
    condition TEXT, width INTEGER NOT NULL, height INTEGER NOT NULL, digest TEXT NOT NULL,
    condition_digest TEXT NOT NULL, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    source TEXT NOT NULL DEFAULT '', status TEXT NOT NULL DEFAULT 'ready'"""
_PROBLEMS = """
    position INTEGER PRIMARY KEY, path TEXT NOT NULL, what TEXT NOT NULL, why TEXT NOT NULL, try_this TEXT NOT NULL"""
_SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS samples ({_SAMPLES})",
    "CREATE TABLE IF NOT EXISTS maps (key TEXT PRIMARY KEY, made_by TEXT NOT NULL, digest TEXT NOT NULL)",
    f"CREATE TABLE IF NOT EXISTS problems ({_PROBLEMS})",
    # What was read of each file, so that a second scan, or one after a cancelled one, reads only what has changed.
    """CREATE TABLE IF NOT EXISTS read_files (
        path TEXT PRIMARY KEY, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, width INTEGER NOT NULL,
        height INTEGER NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID""",
)
_COLUMNS = "key, image, caption, condition, width, height, digest, condition_digest, bytes, mtime_ns, source, status"
_INSERT = f"INSERT INTO {{}}samples (position, {_COLUMNS}) VALUES ({', '.join('?' * 13)})"

EVERY = ("", ())
NONE = ("WHERE 0", ())
WITH_OWN_MAP = ("WHERE condition IS NOT NULL", ())


def with_map_by(fingerprint: str) -> tuple[str, tuple[str, ...]]:
    """Only samples whose map was made by this spec from the image as it is indexed."""
    return (
        "WHERE EXISTS (SELECT 1 FROM maps WHERE maps.key = samples.key AND made_by = ? "
        "AND maps.digest = samples.digest)",
        (fingerprint,),
    )


class Index:
    """Every call has a connection of its own, so any thread may use the object. ``where`` is one of the above."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, samples: Iterable[Sample], problems: Iterable[Problem]) -> None:
        """Replaces all rows in one transaction: readers see the old index or the new one, never a part."""
        with self.filling() as filling:
            for sample in samples:
                filling.add(sample)
            for problem in problems:
                filling.add(problem)
            filling.finish()

    @contextmanager
    def filling(self) -> Iterator[Filling]:
        """To replace all rows by what comes one at a time, however long it takes. Use it in one thread."""
        self.prepare()
        with connect(self.path) as connection:
            yield Filling(connection)

    def prepare(self) -> None:
        """Makes the tables, or brings those of an older version up to date; what they hold stays."""
        with connect(self.path) as connection:
            for statement in _SCHEMA:
                connection.execute(statement)
            present = {row[1] for row in connection.execute("PRAGMA table_info(samples)")}
            for name, words in (("source", "''"), ("status", "'ready'")):
                if name not in present:
                    connection.execute(f"ALTER TABLE samples ADD COLUMN {name} TEXT NOT NULL DEFAULT {words}")
            connection.execute(f"PRAGMA user_version = {VERSION}")

    def count(self, where: tuple[str, tuple[Any, ...]] = EVERY) -> int:
        with connect(self.path) as connection:
            return int(connection.execute(f"SELECT COUNT(*) FROM samples {where[0]}", where[1]).fetchone()[0])

    def samples(
        self, offset: int = 0, limit: int | None = None, where: tuple[str, tuple[Any, ...]] = EVERY
    ) -> list[Sample]:
        return self._select(
            f"{where[0]} ORDER BY position LIMIT ? OFFSET ?", (*where[1], -1 if limit is None else limit, offset)
        )

    def sample(self, key: str) -> Sample:
        """Raises KeyError."""
        for sample in self._select("WHERE key = ?", (key,)):
            return sample
        raise KeyError(key)

    def problems(self, offset: int = 0, limit: int | None = None) -> list[Problem]:
        with connect(self.path) as connection:
            rows = connection.execute(
                "SELECT path, what, why, try_this FROM problems ORDER BY position LIMIT ? OFFSET ?",
                (-1 if limit is None else limit, offset),
            ).fetchall()
        return [Problem(Path(path), *rest) for path, *rest in rows]

    def map_states(self) -> dict[str, tuple[str, str]]:
        """For every finished map: key -> (fingerprint of the spec that made it, digest of the image)."""
        with connect(self.path) as connection:
            rows = connection.execute("SELECT key, made_by, digest FROM maps").fetchall()
        return {key: (made_by, digest) for key, made_by, digest in rows}

    def mark_maps(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Notes finished maps: (key, fingerprint of the spec, digest of the image)."""
        with connect(self.path) as connection:
            connection.executemany("INSERT OR REPLACE INTO maps VALUES (?, ?, ?)", rows)

    def update_file(self, key: str, digest: str, size: int, mtime_ns: int) -> None:
        """Notes that an image's file has changed since the scan."""
        with connect(self.path) as connection:
            connection.execute(
                "UPDATE samples SET digest = ?, bytes = ?, mtime_ns = ? WHERE key = ?", (digest, size, mtime_ns, key)
            )

    def repoint(self, old: Path, new: Path) -> None:
        """The folder ``old`` is called ``new`` now: in one transaction, in every row."""
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


class Filling:
    """New rows beside the old ones: they take their place only by ``finish``.

    What was read of files is kept as it comes, so that a cancelled scan goes on where it stopped.
    """

    COMMIT_SECONDS = 1.0  # what a crash may cost; other writers wait no longer

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # The temporary tables are SQLite's own: on disk when they grow, and gone with the connection.
        connection.execute(f"CREATE TEMP TABLE new_samples ({_SAMPLES})")
        connection.execute(f"CREATE TEMP TABLE new_problems ({_PROBLEMS})")
        self.samples = 0
        self.problems = 0
        self._saved = time.monotonic()

    def known(self, path: Path, size: int, mtime_ns: int) -> Inspected | None:
        """What was read of this file, if it is still the same by size and date."""
        row = self._connection.execute(
            "SELECT width, height, digest FROM read_files WHERE path = ? AND bytes = ? AND mtime_ns = ?",
            (str(path.absolute()), size, mtime_ns),
        ).fetchone()
        return Inspected(row[0], row[1], row[2], size, mtime_ns) if row else None

    def remember(self, path: Path, seen: Inspected) -> None:
        """Note what was read of a file."""
        self._connection.execute(
            "INSERT OR REPLACE INTO read_files VALUES (?, ?, ?, ?, ?, ?)",
            (str(path.absolute()), seen.bytes, seen.mtime_ns, seen.width, seen.height, seen.digest),
        )
        if time.monotonic() - self._saved > self.COMMIT_SECONDS:
            self.save()

    def save(self) -> None:
        """Put on disk what was read so far."""
        self._connection.commit()
        self._saved = time.monotonic()

    def add(self, what: Sample | Problem) -> None:
        """One more row; of two samples with one key the later counts."""
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
        """The new rows take the place of the old ones in one transaction. An image that was left out stays so."""
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
        # Files that are in no row any more would otherwise pile up; unusable ones are read again anyway.
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
    )
