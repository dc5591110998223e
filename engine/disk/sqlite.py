"""Connections to the app's SQLite files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.disk.shares import on_share

BUSY_SECONDS = 30
"""How long a connection waits for another one's write."""


@contextmanager
def connect(path: Path | str, schema: Sequence[str] = (), *, wal: bool = True) -> Iterator[sqlite3.Connection]:
    """Open a database and yield the connection; commit if the block ends without an error, else roll back.

    The connection is always closed afterwards, so that Windows releases the file.

    Args:
        schema: statements to run first, such as CREATE TABLE IF NOT EXISTS.
        wal: keep a write-ahead log, so that readers and a writer do not wait for one another. A write then does not
            change the modification time of the file itself: pass False where that time has to show it. On a network
            share there is none.
    """
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
    try:
        if wal and on_share(path):  # a write-ahead log needs memory that all its readers share (sqlite.org/wal.html)
            connection.execute("PRAGMA journal_mode=DELETE")
        elif wal:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        with connection:
            for statement in schema:
                connection.execute(statement)
            yield connection
    finally:
        connection.close()
