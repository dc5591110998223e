"""Results of the dataset check, in doctor.sqlite: measurements of every image, and the findings of the last check.

It is only a cache: deleting it costs one check. Decisions are in treatment.sqlite.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from sqlite3 import Connection

from engine.data.dataset import Dataset
from engine.data.doctor.facts import ImageFacts, MapFacts
from engine.data.doctor.finding import Hit
from engine.disk.sqlite import connect

STORE = "doctor.sqlite"
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS facts (
        key TEXT PRIMARY KEY, state TEXT NOT NULL, picture TEXT, map TEXT, trouble TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS hits (
        finding TEXT, key TEXT, detail TEXT NOT NULL, other TEXT NOT NULL, PRIMARY KEY (finding, key))""",
    "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
Measurement = tuple[ImageFacts | None, MapFacts | None, str]
"""Measurements of image and map, and the path of an unreadable file ("" if there is none)."""


def maps_of(dataset: Dataset) -> str:
    """Which maps a check has looked at. Making them does not change the dataset's fingerprint."""
    spec = dataset.condition
    return f"{dataset.count(ready=True):,} of {spec.type}" if spec else ""


class CheckStore:
    """Reads and writes the results. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STORE

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def states(self, keys: Iterable[str]) -> dict[str, str]:
        """The state of the files of these samples when they were measured."""
        with connect(self.path, _SCHEMA) as connection:
            wanted = list(keys)
            marks = ",".join("?" * len(wanted))
            return dict(connection.execute(f"SELECT key, state FROM facts WHERE key IN ({marks})", wanted))

    def keep(self, rows: Iterable[tuple[str, str, Measurement]]) -> None:
        """Stores measurements: (key, state, measurement)."""
        with connect(self.path, _SCHEMA) as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)",
                (
                    (key, state, image.to_json() if image else None, map.to_json() if map else None, trouble)
                    for key, state, (image, map, trouble) in rows
                ),
            )

    def measured(self, keys: Iterable[str]) -> dict[str, Measurement]:
        """The measurements of these samples."""
        wanted = list(keys)
        marks = ",".join("?" * len(wanted))
        with connect(self.path, _SCHEMA) as connection:
            rows = connection.execute(f"SELECT key, picture, map, trouble FROM facts WHERE key IN ({marks})", wanted)
            return {
                key: (ImageFacts.from_json(image), MapFacts.from_json(map), trouble)
                for key, image, map, trouble in rows
            }

    def replace_hits(self, hits: Iterable[Hit], about: dict[str, str], kept: str = "") -> None:
        """Replaces the findings after a complete check, in one transaction. ``kept``: the finding that stays."""
        with connect(self.path, _SCHEMA) as connection:
            connection.execute("DELETE FROM hits WHERE finding != ?", (kept,))
            _insert(connection, hits, about)

    def replace_one(self, finding: str, hits: Iterable[Hit], about: dict[str, str]) -> None:
        """Replaces the hits of one finding, in one transaction."""
        with connect(self.path, _SCHEMA) as connection:
            connection.execute("DELETE FROM hits WHERE finding = ?", (finding,))
            _insert(connection, hits, about)

    def counts(self) -> dict[str, int]:
        """Name of the finding -> number of hits."""
        with connect(self.path, _SCHEMA) as connection:
            return dict(connection.execute("SELECT finding, COUNT(*) FROM hits GROUP BY finding"))

    def hits(self, finding: str, offset: int = 0, limit: int | None = None) -> list[Hit]:
        """The hits of a finding, sorted by key. ``limit`` None: all from ``offset`` on."""
        with connect(self.path, _SCHEMA) as connection:
            rows = connection.execute(
                "SELECT finding, key, detail, other FROM hits WHERE finding = ? ORDER BY key LIMIT ? OFFSET ?",
                (finding, -1 if limit is None else limit, offset),
            ).fetchall()
        return [Hit(*row) for row in rows]

    def about(self) -> dict[str, str]:
        """Facts about the last complete check: when, resolution, number of images."""
        with connect(self.path, _SCHEMA) as connection:
            return dict(connection.execute("SELECT name, value FROM about"))


def _insert(connection: Connection, hits: Iterable[Hit], about: dict[str, str]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO hits VALUES (?, ?, ?, ?)",
        ((hit.finding, hit.key, hit.detail, hit.other) for hit in hits),
    )
    connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())
