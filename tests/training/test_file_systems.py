"""Checkpoints, exports and the workspace lock by the rules of NTFS, exFAT and network shares."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path

import pytest

from engine.bases.merging import link_or_copy
from engine.data.decisions import DecisionStore
from engine.data.layouts.captions import text_beside
from engine.disk.durable import atomic_write_text, flush_folder
from engine.export.writing import give_ordinary_permissions
from engine.jobs.events import Waiting
from engine.runs.checkpoints import broken_checkpoints, verify_files
from engine.workspace.lock import InUse, WorkspaceLock
from engine.workspace.paths import Workspace
from tests.disk.file_systems import Rules, exfat, ntfs, open_files, round_date
from tests.short_runs import RunFactory, train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the open files are read from /proc")
SETTINGS = {"train.steps": 3, "train.checkpoint_every": 1, "validation.every": 0, "optim.ema_decay": 0.9}


def test_on_ntfs_nothing_is_renamed_that_the_run_itself_has_open(
    new_run: RunFactory, ready_workspace: Workspace
) -> None:
    run = new_run(**SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        rules = ntfs(patch)
        with WorkspaceLock(ready_workspace, "the window"):
            train(ready_workspace, run)
            with pytest.raises(InUse):
                WorkspaceLock(ready_workspace, "the window").acquire()
    assert rules.refused["replace"] == 0 and rules.refused["open"] > 0, "no folder is flushed, and none has to be"
    assert [one.step for one in run.checkpoints()] == [1, 2, 3] and broken_checkpoints(run.folder) == []
    for checkpoint in run.checkpoints():
        verify_files(checkpoint.folder)


def test_the_rules_of_ntfs_refuse_what_windows_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    ntfs(monkeypatch)
    with (tmp_path / "folder" / "a").open("w"):
        assert tmp_path / "folder" / "a" in open_files()
        with pytest.raises(PermissionError):
            os.replace(tmp_path / "folder", tmp_path / "other")  # noqa: PTH105 - the rule itself
    os.replace(tmp_path / "folder", tmp_path / "other")  # noqa: PTH105


@pytest.mark.long
def test_a_share_that_loses_a_write_and_a_name_once_gets_the_checkpoint_later(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.disk.retry.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("engine.disk.retry.FIRST_RETRY", 0.01)
    run = new_run(**SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        rules = Rules(patch)
        rules.once(os, "fsync", errno.EIO, after=8)
        rules.once(os, "replace", errno.ESTALE, after=6)
        trained = train(ready_workspace, run)
    assert rules.refused == {"fsync": 1, "replace": 1}
    assert [one.step for one in run.checkpoints()] == [1, 2, 3] and len(trained.of(Waiting)) <= 2
    for checkpoint in run.checkpoints():
        verify_files(checkpoint.folder)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_share_that_refuses_locks_still_has_one_owner(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    Rules(monkeypatch).refuse(fcntl, "flock", number)
    with WorkspaceLock(workspace, "the window"), pytest.raises(InUse):
        WorkspaceLock(workspace, "the window").acquire()


def test_a_folder_that_cannot_be_opened_is_not_flushed_and_a_lost_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        flush_folder(tmp_path / "gone")
    ntfs(monkeypatch)
    atomic_write_text(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "whole"


def test_on_exfat_there_are_neither_links_nor_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = exfat(monkeypatch)
    (tmp_path / "file").write_text("weights", encoding="utf-8")
    link_or_copy(tmp_path / "file", tmp_path / "second", os.link)
    give_ordinary_permissions(tmp_path / "second")
    assert (tmp_path / "second").read_text(encoding="utf-8") == "weights"
    assert rules.refused == {"link": 1, "chmod": 1}


def test_names_that_differ_in_case_only_get_folders_of_their_own(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    exfat(monkeypatch)
    first, second = workspace.new_run("Cats"), workspace.new_run("cats")
    assert first.name.endswith("_Cats") and second.name.endswith("_cats-2")
    workspace.dataset_folder("Birds").mkdir(parents=True)
    assert workspace.dataset_folder("birds").exists(), "so a second dataset of that name is refused, not mixed"


def test_changes_within_one_step_of_the_dates_are_seen(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.touch()
    round_date(tmp_path)
    assert text_beside(image) is None
    image.with_suffix(".txt").write_text("a cat", encoding="utf-8")
    round_date(tmp_path)
    assert text_beside(image) == image.with_suffix(".txt")

    here, elsewhere = DecisionStore(tmp_path), DecisionStore(tmp_path)
    for key in ("first", "second"):
        elsewhere.exclude([key], "blurred")
        round_date(here.path)
        assert key in here.current.excluded
