"""The index survives cancelled scans, reads only changed files again, and migrates older files."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data import read_images
from engine.data.dataset import Dataset
from engine.data.importing import import_source
from engine.data.index import Index, IndexWriter
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace

COUNT = 12


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, np.ndarray]) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    photo = Image.fromarray(photos["astronaut"]).resize((96, 96))
    for number in range(COUNT):
        photo.rotate(7 * number).save(source / f"{number:02}.jpg")
    return source


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects the names of the images that are read."""
    names: list[str] = []
    real = read_images.inspect

    def inspect(path: Path, min_side: int) -> read_images.Inspected:
        names.append(path.name)
        return real(path, min_side)

    monkeypatch.setattr(read_images, "inspect", inspect)
    return names


def test_a_second_scan_reads_only_what_changed(workspace: Workspace, folder: Path, opened: list[str]) -> None:
    first = import_source(workspace, str(folder))
    before = Dataset.open(first.folder)
    assert len(opened) == COUNT
    opened.clear()
    Image.new("RGB", (80, 70)).save(folder / "03.jpg")
    os.utime(folder / "05.jpg", (9, 9))
    Image.new("RGB", (80, 70)).save(folder / "new.png")
    (folder / "00.jpg").unlink()
    (folder / "01.txt").write_text("a caption that came later", encoding="utf-8")
    result = import_source(workspace, str(folder))
    assert sorted(opened) == ["03.jpg", "05.jpg", "new.png"]
    after = Dataset.open(result.folder)
    assert after.count() == COUNT and after.sample("03.jpg").width == 80
    assert after.sample("01.jpg").caption == "a caption that came later"
    assert after.sample("05.jpg").digest == before.sample("05.jpg").digest
    assert after.fingerprint != before.fingerprint


def test_a_cancelled_scan_continues_where_it_stopped(workspace: Workspace, folder: Path, opened: list[str]) -> None:
    control = Control()

    def progress(done: int, total: int, label: str) -> None:
        if done == 6:
            control.cancel()

    with pytest.raises(Cancelled):
        import_source(workspace, str(folder), progress=progress, token=control.token)
    assert workspace.dataset_names() == []
    opened.clear()
    assert import_source(workspace, str(folder)).pictures == COUNT
    assert len(opened) <= COUNT - 6 and "00.jpg" not in opened


def test_readers_see_the_old_rows_until_a_scan_ends(workspace: Workspace, folder: Path) -> None:
    dataset = Dataset.open(import_source(workspace, str(folder)).folder)
    with dataset.index.writing() as writer:
        writer.add(dataset.samples()[0])
        writer.save()
        assert dataset.count() == COUNT
        writer.finish()
    assert dataset.count() == 1


def test_excluded_samples_stay_excluded_after_a_scan(workspace: Workspace, folder: Path) -> None:
    dataset = Dataset.open(import_source(workspace, str(folder)).folder)
    with sqlite3.connect(dataset.folder / "index.sqlite") as connection:
        connection.execute("UPDATE samples SET status = 'left out' WHERE key = '02.jpg'")
    connection.close()
    import_source(workspace, str(folder))
    assert [s.status for s in dataset.samples(0, 4)] == ["ready", "ready", "left out", "ready"]


def test_an_index_of_the_first_version_opens_and_keeps_its_rows(workspace: Workspace, folder: Path) -> None:
    dataset = Dataset.open(import_source(workspace, str(folder)).folder)
    dataset.index.mark_maps([("00.jpg", "spec", "digest")])
    path = dataset.folder / "index.sqlite"
    with sqlite3.connect(path) as connection:  # the first version's table
        connection.execute("ALTER TABLE samples DROP COLUMN source")
        connection.execute("ALTER TABLE samples DROP COLUMN status")
        connection.execute("DROP TABLE read_files")
        connection.execute("PRAGMA user_version = 0")
    connection.close()
    old = Index(path)
    assert [s.key for s in old.samples(0, 2)] == ["00.jpg", "01.jpg"] and old.sample("00.jpg").status == "ready"
    assert old.map_states() == {"00.jpg": ("spec", "digest")}
    assert import_source(workspace, str(folder)).pictures == COUNT
    assert old.map_states() == {"00.jpg": ("spec", "digest")}


def test_rows_are_saved_during_the_scan(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(IndexWriter, "COMMIT_SECONDS", -1.0)

    def crash(self: IndexWriter) -> None:
        raise KeyboardInterrupt  # as if the process was killed

    monkeypatch.setattr(IndexWriter, "finish", crash)
    with pytest.raises(KeyboardInterrupt):
        import_source(workspace, str(folder))
    monkeypatch.undo()
    with sqlite3.connect(workspace.dataset_folder("source") / "index.sqlite") as connection:
        assert connection.execute("SELECT COUNT(*) FROM read_files").fetchone() == (COUNT,)
    connection.close()


def test_opening_and_paging_read_only_the_page(workspace: Workspace, folder: Path) -> None:
    dataset = Dataset.open(import_source(workspace, str(folder)).folder)
    connection = sqlite3.connect(dataset.folder / "index.sqlite")
    plans = [
        str(connection.execute("EXPLAIN QUERY PLAN " + query).fetchall())
        for query in (
            "SELECT * FROM samples ORDER BY position LIMIT 24 OFFSET 48",
            "SELECT * FROM samples WHERE key='x'",
        )
    ]
    connection.close()
    assert "TEMP B-TREE" not in plans[0] and "SEARCH" in plans[1]
    page = dataset.page(1, 5)
    assert [s.key for s in page.samples] == [f"{n:02}.jpg" for n in range(5, 10)]
