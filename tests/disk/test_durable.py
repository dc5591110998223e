"""Atomic writes: the old file or the new one, never half of one, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from engine.disk import durable
from engine.disk.durable import atomic_write, atomic_write_bytes, atomic_write_text, move_into_place


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("unique", [False, True])
def test_a_reader_never_sees_half_of_a_file(tmp_path: Path, unique: bool) -> None:
    target = tmp_path / "settings.json"
    atomic_write_text(target, "old")
    with atomic_write(target, unique=unique) as temporary:
        temporary.write_text("ne", encoding="utf-8")
        assert target.read_text(encoding="utf-8") == "old"
        assert temporary.parent == tmp_path and temporary.suffix == ".tmp", "what .gitignore and the cleanup know"
        temporary.write_text("new", encoding="utf-8")
    assert target.read_text(encoding="utf-8") == "new" and names(tmp_path) == ["settings.json"]


@pytest.mark.parametrize("flushed", [False, True])
def test_after_an_error_the_old_file_is_there_and_no_other(tmp_path: Path, flushed: bool) -> None:
    target = tmp_path / "settings.json"
    atomic_write_text(target, "old")

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write_bytes(target, pieces(), flushed=flushed)
    assert target.read_text(encoding="utf-8") == "old" and names(tmp_path) == ["settings.json"]


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "log.txt.tmp").write_text("half of a longer text", encoding="utf-8")
    atomic_write_text(tmp_path / "log.txt", "all")
    assert names(tmp_path) == ["log.txt"]
    assert (tmp_path / "log.txt").read_bytes() == b"all"


def test_the_folder_is_made_and_long_names_work(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / ("n" * 251 + ".png")
    atomic_write_bytes(target, b"1", unique=True)
    assert target.read_bytes() == b"1"


def test_another_thread_can_create_the_folder_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def open_late(path: Path, *args: Any, **options: Any) -> IO[Any]:
        try:
            return real(path, *args, **options)
        except FileNotFoundError:
            path.parent.mkdir()
            raise

    monkeypatch.setattr(Path, "open", open_late)
    atomic_write_bytes(tmp_path / "maps" / "a.png", b"1", unique=True)
    assert (tmp_path / "maps" / "a.png").read_bytes() == b"1"


def test_everything_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of flushes and renames is all that a test can see of a power cut."""
    order: list[str] = []
    real_flush, real_folder, real_replace = durable.flush, durable.flush_folder, os.replace
    monkeypatch.setattr(durable, "flush", lambda path: (order.append(f"flush {path.name}"), real_flush(path)))
    monkeypatch.setattr(durable, "flush_folder", lambda path: (order.append(f"flush {path.name}/"), real_folder(path)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(f"name {Path(b).name}"), real_replace(a, b)))
    folder = tmp_path / "made.tmp"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "x.bin").write_bytes(b"x")
    move_into_place(folder, tmp_path / "made")
    parent = f"flush {tmp_path.name}/"
    assert order == ["flush inner/", "flush x.bin", "flush made.tmp/", "name made", parent]
    order.clear()
    atomic_write_text(tmp_path / "one.txt", "1")
    assert order == ["flush one.txt.tmp", "name one.txt", parent]
    order.clear()
    atomic_write_bytes(tmp_path / "two.txt", b"2", flushed=False)
    assert order == ["name two.txt"]
