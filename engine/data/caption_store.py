"""Edited captions of a dataset and their history, in a database beside the index. The user's .txt files never change.

captions.sqlite has ``edits`` (captions that differ from the scanned ones), ``operations`` (the last KEPT ones) and
``undo`` (the captions before each operation; NULL if it was the scanned one).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.data.samples import Sample
from engine.disk.sqlite import connect
from engine.errors import UserError

CAPTIONS = "captions.sqlite"
KEPT = 50  # operations that can be undone
CHUNK = 500  # keys in one query; SQLite allows at least 999 variables
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS edits (key TEXT PRIMARY KEY, caption TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS operations (
        number INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL, made TEXT NOT NULL,
        unfinished INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE IF NOT EXISTS undo (
        operation INTEGER NOT NULL, key TEXT NOT NULL, before TEXT, PRIMARY KEY (operation, key)) WITHOUT ROWID""",
)
_NOW = "coalesce(edits.caption, samples.caption)"
_BLANK = f"trim({_NOW}, ' ' || char(9) || char(10) || char(13)) = ''"
FILTERS = {"all": "1", "empty": _BLANK, "edited": "edits.caption IS NOT NULL"}


@dataclass(frozen=True)
class Operation:
    """One entry of the history. ``unfinished``: it was cancelled and can be resumed."""

    number: int
    what: str
    made: str
    changed: int
    unfinished: bool = False


@dataclass(frozen=True)
class CaptionRow:
    """A caption in a list. ``edited``: it differs from the file's."""

    key: str
    caption: str
    edited: bool


class CaptionStore:
    """Thread-safe: every call opens its own connection. Creates no file before the first edit."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CAPTIONS

    # -- reading ------------------------------------------------------------------------------------------------------

    def overlay(self, samples: list[Sample]) -> list[Sample]:
        """Returns the samples with their edited captions."""
        if not samples or not self.path.exists():
            return samples
        edits: dict[str, str] = {}
        with self._connection() as connection:
            for first in range(0, len(samples), CHUNK):
                edits.update(_some(connection, [s.key for s in samples[first : first + CHUNK]]))
        return [replace(s, caption=edits[s.key]) if s.key in edits else s for s in samples] if edits else samples

    def digest(self) -> str:
        """A hash of all edits. Empty if there are none. Undoing restores it."""
        if not self.path.exists():
            return ""
        state, any_edit = hashlib.blake2b(digest_size=16), False
        with self._connection() as connection:
            for row in connection.execute("SELECT key, caption FROM edits ORDER BY key"):
                state.update(json.dumps(row).encode())
                any_edit = True
        return state.hexdigest() if any_edit else ""

    def history(self) -> list[Operation]:
        """The operations that can be undone, newest first."""
        if not self.path.exists():
            return []
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT number, what, made, (SELECT COUNT(*) FROM undo WHERE operation = number), unfinished "
                "FROM operations ORDER BY number DESC"
            ).fetchall()
        return [Operation(number, what, made, changed, bool(open)) for number, what, made, changed, open in rows]

    def count(self, index: Path, which: str = "all", containing: str = "") -> int:
        """Number of captions in an index that match ``which``, a key of FILTERS, and contain a text."""
        return int(self._ask(index, "COUNT(*)", which, containing, "", ())[0][0])

    def lengths(self, index: Path, more_than: int) -> tuple[int, int]:
        """Length of the longest caption in an index, and how many are longer than ``more_than``, in characters."""
        what = f"coalesce(max(length({_NOW})), 0), coalesce(sum(length({_NOW}) > {int(more_than)}), 0)"
        longest, count = self._ask(index, what, "all", "", "", ())[0]
        return int(longest), int(count)

    def find(
        self, index: Path, which: str = "all", containing: str = "", offset: int = 0, limit: int = 20
    ) -> list[CaptionRow]:
        """A page of captions in the index's order."""
        tail = "ORDER BY position LIMIT ? OFFSET ?"
        rows = self._ask(
            index, f"samples.key, {_NOW}, edits.caption IS NOT NULL", which, containing, tail, (limit, offset)
        )
        return [CaptionRow(key, caption, bool(edited)) for key, caption, edited in rows]

    def _ask(
        self, index: Path, what: str, which: str, containing: str, tail: str, values: tuple[Any, ...]
    ) -> list[tuple[Any, ...]]:
        where = FILTERS[which]
        words: tuple[str, ...] = ()
        if containing:
            literal = containing.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            where, words = f"({where}) AND {_NOW} LIKE ? ESCAPE '\\'", (f"%{literal}%",)
        with self._connection(self.path if self.path.exists() else ":memory:") as connection:
            connection.execute("ATTACH ? AS dataset", (str(index),))
            rows = connection.execute(
                f"SELECT {what} FROM dataset.samples AS samples LEFT JOIN main.edits AS edits ON edits.key = "
                f"samples.key WHERE {where} {tail}",
                (*words, *values),
            ).fetchall()
        return rows

    # -- changing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def operation(self, what: str, resumable: bool = False) -> Iterator[CaptionWriter]:
        """Starts an operation, one entry in the history. All or nothing: an exception undoes it.

        ``resumable``: after an exception, everything up to the last ``CaptionWriter.save`` stays as an unfinished
        operation, which the next operation of the same name resumes.
        """
        with self._connection() as connection:
            writing = CaptionWriter(connection, what, resumable)
            try:
                yield writing
            except BaseException:
                connection.rollback()
                writing.close(finished=False)
                raise
            writing.close(finished=True)

    def undo(self) -> Operation | None:
        """Undoes the newest operation. None if there is nothing to undo."""
        history = self.history()
        if not history:
            return None
        number = (history[0].number,)
        with self._connection() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO edits SELECT key, before FROM undo WHERE operation = ? AND before IS NOT NULL",
                number,
            )
            connection.execute(
                "DELETE FROM edits WHERE key IN (SELECT key FROM undo WHERE operation = ? AND before IS NULL)", number
            )
            connection.execute("DELETE FROM undo WHERE operation = ?", number)
            connection.execute("DELETE FROM operations WHERE number = ?", number)
        return history[0]

    @contextmanager
    def _connection(self, path: Path | str | None = None) -> Iterator[sqlite3.Connection]:
        """Commits unless there is an exception. Always closes, so that Windows releases the file."""
        try:
            with connect(path or self.path, _SCHEMA) as connection:
                yield connection
        except sqlite3.Error as error:
            raise UserError(
                "The edited captions cannot be read or written.",
                f"{self.path} gave: {error}.",
                "Check that the workspace's disk has free space and is writable; close other programs that use it.",
            ) from error


class CaptionWriter:
    """Changes captions as part of an operation. Use it in one thread."""

    def __init__(self, connection: sqlite3.Connection, what: str, resumable: bool) -> None:
        self._connection = connection
        newest = connection.execute("SELECT number, what, unfinished FROM operations ORDER BY number DESC").fetchone()
        self.resumed = bool(resumable and newest and newest[1:] == (what, 1))
        """Whether the newest operation is this one, cancelled, which now continues."""
        if self.resumed:
            self._number = int(newest[0])
        else:
            made = datetime.now(UTC).isoformat(timespec="seconds")
            row = connection.execute(
                "INSERT INTO operations (what, made, unfinished) VALUES (?, ?, ?)", (what, made, int(resumable))
            )
            self._number = int(row.lastrowid or 0)

    def done(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that this operation has already changed."""
        found: set[str] = set()
        for first in range(0, len(keys), CHUNK):
            some = keys[first : first + CHUNK]
            marks = ", ".join("?" * len(some))
            rows = self._connection.execute(
                f"SELECT key FROM undo WHERE operation = ? AND key IN ({marks})", (self._number, *some)
            )
            found.update(key for (key,) in rows)
        return found

    def put(self, changes: Iterable[tuple[str, str, str]]) -> int:
        """Sets captions: (key, scanned caption, new caption). Returns how many changed."""
        changed = 0
        for key, original, caption in changes:
            row = self._connection.execute("SELECT caption FROM edits WHERE key = ?", (key,)).fetchone()
            if caption == (row[0] if row else original):
                continue
            changed += 1
            self._connection.execute(
                "INSERT OR IGNORE INTO undo VALUES (?, ?, ?)", (self._number, key, row[0] if row else None)
            )
            if caption == original:
                self._connection.execute("DELETE FROM edits WHERE key = ?", (key,))
            else:
                self._connection.execute("INSERT OR REPLACE INTO edits VALUES (?, ?)", (key, caption))
        return changed

    def save(self) -> None:
        """Commits what was written so far. For resumable operations."""
        self._connection.commit()

    def close(self, finished: bool) -> None:
        """Commit, and keep the newest KEPT operations. ``finished=False``: a resumable one stays unfinished."""
        run = self._connection.execute
        if finished:
            run("UPDATE operations SET unfinished = 0 WHERE number = ?", (self._number,))
        # Drop operations that changed nothing, and keep only the newest ones.
        run("DELETE FROM operations WHERE number NOT IN (SELECT DISTINCT operation FROM undo)")
        run(
            "DELETE FROM operations WHERE number NOT IN (SELECT number FROM operations ORDER BY number DESC LIMIT ?)",
            (KEPT,),
        )
        run("DELETE FROM undo WHERE operation NOT IN (SELECT number FROM operations)")
        self._connection.commit()


def _some(connection: sqlite3.Connection, keys: Sequence[str]) -> list[tuple[str, str]]:
    marks = ", ".join("?" * len(keys))
    return connection.execute(f"SELECT key, caption FROM edits WHERE key IN ({marks})", tuple(keys)).fetchall()
