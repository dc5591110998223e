"""Network shares are recognized, and SQLite keeps no write-ahead log on them."""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from pathlib import Path

import pytest

from engine.disk import shares
from engine.disk.sqlite import connect

Mount = namedtuple("Mount", "mountpoint fstype opts")


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    share = tmp_path / "nas"
    (share / "local").mkdir(parents=True)
    found = [Mount("/", "ext4", "rw"), Mount(str(share), "cifs", "rw"), Mount(str(share / "local"), "ext4", "rw")]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: found)
    shares.mounts.cache_clear()
    yield share
    shares.mounts.cache_clear()


def test_the_deepest_mount_counts(mounted: Path) -> None:
    assert shares.on_share(mounted) and shares.on_share(mounted / "workspace" / "not there yet")
    assert not shares.on_share(mounted / "local" / "a") and not shares.on_share(mounted.with_name("nas2"))
    assert shares.on_share("//server/share/a")


def test_a_link_to_a_share_and_windows_long_form_count(
    mounted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workspace").symlink_to(mounted, target_is_directory=True)
    assert shares.on_share(tmp_path / "workspace" / "datasets" / "a" / "index.sqlite")
    (mounted / "here").symlink_to(tmp_path, target_is_directory=True)
    assert shares.on_share(mounted / "here" / "a"), "the link itself is on the share"
    monkeypatch.setattr("os.path.abspath", lambda path: path)
    assert shares.on_share("\\\\?\\UNC\\nas\\sets") and shares.on_share("\\\\?\\unc\\nas\\sets")
    assert not shares.on_share("\\\\?\\C:\\sets")


@pytest.mark.parametrize("kind", ["nfs4", "CIFS", "9p", "fuse.sshfs", "fuse.rclone", "fuse.gvfsd-fuse", "autofs"])
def test_what_is_mounted_over_a_network_is_a_share(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Mount("/", "ext4", "rw"), Mount(str(tmp_path / "nas"), kind, "rw"), Mount("Z:\\", "NTFS", "rw,remote")]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: found)
    shares.mounts.cache_clear()
    assert shares.on_share(tmp_path / "nas" / "a") and dict(shares.mounts())["Z:\\"] is True
    shares.mounts.cache_clear()


def test_a_database_on_a_share_has_no_log_beside_it(mounted: Path, tmp_path: Path) -> None:
    for folder, mode in ((mounted, "delete"), (tmp_path, "wal")):
        with connect(folder / "a.sqlite", ["CREATE TABLE IF NOT EXISTS t (x)"]) as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)
            assert (folder / "a.sqlite-wal").exists() == (mode == "wal")


def test_one_that_was_made_on_a_disk_works_on_a_share(mounted: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "b.sqlite",):
        with connect(path, ["CREATE TABLE t (x)"]) as connection:
            connection.execute("INSERT INTO t VALUES (1)")
        (mounted / "b.sqlite").write_bytes(path.read_bytes())
    with connect(mounted / "b.sqlite") as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert sqlite3.connect(mounted / "b.sqlite").execute("PRAGMA journal_mode").fetchone() == ("delete",)
