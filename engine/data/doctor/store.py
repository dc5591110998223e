"""What the doctor knows of a dataset, beside it in doctor.sqlite: figures of every image, and the last findings.

Only a cache: deleting the file costs one check. Decisions are in treatment.sqlite.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.data.doctor.facts import ImageFacts, MapFacts
from engine.data.doctor.finding import Hit
from engine.disk.sqlite import connect

STORE = "doctor.sqlite"
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS facts (
        key TEXT PRIMARY KEY, state TEXT NOT NULL, image TEXT, map TEXT, trouble TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS hits (
        finding TEXT, key TEXT, detail TEXT NOT NULL, other TEXT NOT NULL, PRIMARY KEY (finding, key))""",
    "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
Measured = tuple[ImageFacts | None, MapFacts | None, str]
"""Image, map, and the path of a file that cannot be read ("" where both can)."""


class Store:
    """Any thread may use the object."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STORE

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def states(self, keys: Iterable[str]) -> dict[str, str]:
        """What each of these samples looked like when it was measured."""
        with connect(self.path, _SCHEMA) as connection:
            wanted = list(keys)
            marks = ",".join("?" * len(wanted))
            return dict(connection.execute(f"SELECT key, state FROM facts WHERE key IN ({marks})", wanted))

    def keep(self, rows: Iterable[tuple[str, str, Measured]]) -> None:
        """Notes measurements: (key, state, measured)."""
        with connect(self.path, _SCHEMA) as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)",
                (
                    (key, state, image.to_json() if image else None, map.to_json() if map else None, trouble)
                    for key, state, (image, map, trouble) in rows
                ),
            )

    def measured(self, keys: Iterable[str]) -> dict[str, Measured]:
        """Measurements of these samples."""
        wanted = list(keys)
        marks = ",".join("?" * len(wanted))
        with connect(self.path, _SCHEMA) as connection:
            rows = connection.execute(f"SELECT key, image, map, trouble FROM facts WHERE key IN ({marks})", wanted)
            return {
                key: (ImageFacts.from_json(image), MapFacts.from_json(map), trouble)
                for key, image, map, trouble in rows
            }

    def replace_hits(self, hits: Iterable[Hit], about: dict[str, str]) -> None:
        """The findings of a check that has come to its end; readers see the old ones or these."""
        with connect(self.path, _SCHEMA) as connection:
            connection.execute("DELETE FROM hits")
            connection.executemany(
                "INSERT OR IGNORE INTO hits VALUES (?, ?, ?, ?)",
                ((hit.finding, hit.key, hit.detail, hit.other) for hit in hits),
            )
            connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())

    def counts(self) -> dict[str, int]:
        """Name of the finding -> how many."""
        with connect(self.path, _SCHEMA) as connection:
            return dict(connection.execute("SELECT finding, COUNT(*) FROM hits GROUP BY finding"))

    def hits(self, finding: str, offset: int = 0, limit: int | None = None) -> list[Hit]:
        with connect(self.path, _SCHEMA) as connection:
            rows = connection.execute(
                "SELECT finding, key, detail, other FROM hits WHERE finding = ? ORDER BY key LIMIT ? OFFSET ?",
                (finding, -1 if limit is None else limit, offset),
            ).fetchall()
        return [Hit(*row) for row in rows]

    def about(self) -> dict[str, str]:
        """Of the last finished check: when, resolution, images."""
        with connect(self.path, _SCHEMA) as connection:
            return dict(connection.execute("SELECT name, value FROM about"))
