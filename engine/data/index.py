"""The table behind a dataset: one row a picture in the standard library's SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.data.samples import Problem, Sample

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS samples (
        position INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, image TEXT NOT NULL, caption TEXT NOT NULL,
        condition TEXT, width INTEGER NOT NULL, height INTEGER NOT NULL, digest TEXT NOT NULL,
        condition_digest TEXT NOT NULL, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS maps (key TEXT PRIMARY KEY, made_by TEXT NOT NULL, digest TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS problems (
        position INTEGER PRIMARY KEY, path TEXT NOT NULL, what TEXT NOT NULL, why TEXT NOT NULL,
        try_this TEXT NOT NULL)""",
)
_COLUMNS = "key, image, caption, condition, width, height, digest, condition_digest, bytes, mtime_ns"

EVERY = ("", ())
NONE = ("WHERE 0", ())
WITH_OWN_MAP = ("WHERE condition IS NOT NULL", ())


def with_map_by(fingerprint: str) -> tuple[str, tuple[str, ...]]:
    """Only samples whose map was made by this spec from the picture as it is indexed."""
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
        with self._connection() as connection:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("DELETE FROM samples")
            connection.execute("DELETE FROM problems")
            connection.executemany(
                f"INSERT INTO samples (position, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (_row(position, sample) for position, sample in enumerate(samples)),
            )
            connection.executemany(
                "INSERT INTO problems VALUES (?, ?, ?, ?, ?)",
                ((position, str(p.path), p.what, p.why, p.try_this) for position, p in enumerate(problems)),
            )

    def count(self, where: tuple[str, tuple[Any, ...]] = EVERY) -> int:
        with self._connection() as connection:
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
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT path, what, why, try_this FROM problems ORDER BY position LIMIT ? OFFSET ?",
                (-1 if limit is None else limit, offset),
            ).fetchall()
        return [Problem(Path(path), *rest) for path, *rest in rows]

    def map_states(self) -> dict[str, tuple[str, str]]:
        """For every finished map: key -> (fingerprint of the spec that made it, digest of the picture)."""
        with self._connection() as connection:
            rows = connection.execute("SELECT key, made_by, digest FROM maps").fetchall()
        return {key: (made_by, digest) for key, made_by, digest in rows}

    def mark_maps(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Notes finished maps: (key, fingerprint of the spec, digest of the picture)."""
        with self._connection() as connection:
            connection.executemany("INSERT OR REPLACE INTO maps VALUES (?, ?, ?)", rows)

    def update_file(self, key: str, digest: str, size: int, mtime_ns: int) -> None:
        """Notes that a picture's file has changed since the scan."""
        with self._connection() as connection:
            connection.execute(
                "UPDATE samples SET digest = ?, bytes = ?, mtime_ns = ? WHERE key = ?", (digest, size, mtime_ns, key)
            )

    def _select(self, clause: str, values: tuple[Any, ...]) -> list[Sample]:
        with self._connection() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM samples {clause}", values).fetchall()
        return [Sample(row[0], Path(row[1]), row[2], Path(row[3]) if row[3] else None, *row[4:]) for row in rows]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Commits when the block ends well; always closed, so that Windows lets the file go."""
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            with connection:
                yield connection
        finally:
            connection.close()


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
    )
