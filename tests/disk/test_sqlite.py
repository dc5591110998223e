"""Connections commit or roll back, and are closed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from engine.disk.sqlite import connect

SCHEMA = ("CREATE TABLE IF NOT EXISTS words (word TEXT)",)


def words(path: Path) -> list[str]:
    with connect(path, SCHEMA) as connection:
        return [word for (word,) in connection.execute("SELECT word FROM words")]


@pytest.mark.parametrize("wal", [True, False])
def test_a_block_is_kept_whole_or_not_at_all(tmp_path: Path, wal: bool) -> None:
    path = tmp_path / "words.sqlite"
    with connect(path, SCHEMA, wal=wal) as connection:
        connection.execute("INSERT INTO words VALUES ('one')")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    with pytest.raises(ValueError, match="in between"), connect(path, SCHEMA, wal=wal) as connection:
        connection.execute("INSERT INTO words VALUES ('two')")
        raise ValueError("in between")
    assert words(path) == ["one"]


def test_without_a_log_a_write_changes_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "words.sqlite"
    with connect(path, SCHEMA, wal=False) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() != ("wal",)
        before = path.stat().st_size
        connection.executemany("INSERT INTO words VALUES (?)", [("x" * 1000,)] * 50)
    assert path.stat().st_size > before and [p.name for p in tmp_path.iterdir()] == ["words.sqlite"]
