"""One workspace, one app: whoever comes second is told who has it, and what a dead owner left is taken over."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from engine.errors import UserError
from engine.install.in_use import ASK
from engine.workspace import lock as lock_module
from engine.workspace.lock import FILE, InUse, WorkspaceLock, app_open, open_apps, process_start, same_start
from engine.workspace.paths import APP_FOLDER, Workspace

HOLDER = (
    "import sys; from engine.workspace.paths import Workspace; from engine.workspace.lock import WorkspaceLock;"
    "WorkspaceLock(Workspace(sys.argv[1]), 'the window').acquire(); print('held', flush=True); sys.stdin.read()"
)


def written(workspace: Workspace, **changes: Any) -> Path:
    """The file as this process would write it, with some entries changed."""
    lock = WorkspaceLock(workspace, "the window").acquire()
    path = workspace.root / FILE
    about = json.loads(path.read_text(encoding="utf-8"))
    lock.release()
    path.write_text(json.dumps({**about, **changes}), encoding="utf-8")
    return path


@pytest.mark.answers('"This workspace is already open"')
def test_it_is_held_until_it_is_released(workspace: Workspace) -> None:
    first = WorkspaceLock(workspace, "the window").acquire()
    first.set_address("http://127.0.0.1:7860")
    with pytest.raises(InUse) as caught:
        WorkspaceLock(workspace, "the command train").acquire()
    error = caught.value
    assert "already open" in error.what and "--workspace" in error.try_this
    assert "the window at http://127.0.0.1:7860" in error.why and str(os.getpid()) in error.why
    assert error.owner.address == "http://127.0.0.1:7860"
    first.release()
    with WorkspaceLock(workspace, "the command train"):
        pass
    left = {path.name for path in workspace.root.iterdir() if "in-use" in path.name}
    assert left <= {".in-use.json-taking"}, "nothing is left behind but the empty file that is locked while taking"


def test_a_refused_one_gives_nothing_back(workspace: Workspace) -> None:
    with WorkspaceLock(workspace, "the window"):
        second = WorkspaceLock(workspace, "the window")
        with pytest.raises(InUse):
            second.acquire()
        second.release()
        assert (workspace.root / FILE).exists()


@pytest.mark.answers('"This workspace is already open"')
def test_the_workspace_of_a_killed_app_is_taken_over(workspace: Workspace) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workspace.root)],
        cwd=APP_FOLDER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdin is not None
    try:
        assert child.stdout.readline().strip() == "held"
        with pytest.raises(InUse) as caught:
            WorkspaceLock(workspace, "the window").acquire()
        assert caught.value.owner.pid == child.pid
    finally:
        child.kill()  # and it is not waited for: on Linux a zombie of that number is still there
        child.stdin.close()
    deadline = time.monotonic() + 30
    while process_start(child.pid) is not None and time.monotonic() < deadline:
        pass  # the system takes a moment to end it
    with WorkspaceLock(workspace, "the window"):
        assert json.loads((workspace.root / FILE).read_text(encoding="utf-8"))["pid"] == os.getpid()
    child.wait(10)


def test_another_process_of_the_same_number_is_not_the_owner(workspace: Workspace) -> None:
    written(workspace, started="0.00", mark="old")
    with WorkspaceLock(workspace, "the window"):
        pass


def test_an_owner_of_unknown_age_counts_as_alive(workspace: Workspace) -> None:
    written(workspace, started="", mark="old")
    with pytest.raises(InUse):
        WorkspaceLock(workspace, "the window").acquire()


@pytest.mark.answers('"This workspace is already open"')
def test_a_workspace_that_another_computer_has_is_never_taken_over(workspace: Workspace) -> None:
    path = written(workspace, host="attic", pid=999_999, mark="old")
    with pytest.raises(InUse, match="another computer") as caught:
        WorkspaceLock(workspace, "the window").acquire()
    assert "attic" in caught.value.why and str(path) in caught.value.try_this
    assert platform.node() != "attic"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_file_does_not_lock_people_out(workspace: Workspace, text: str) -> None:
    path = workspace.root / FILE
    path.write_text(text, encoding="utf-8")
    os.utime(path, (0, 0))
    with WorkspaceLock(workspace, "the window"):
        assert json.loads(path.read_text(encoding="utf-8"))["pid"] == os.getpid()


def test_of_many_at_once_one_gets_it(workspace: Workspace) -> None:
    written(workspace, started="0.00", mark="old")
    ready, outcomes = threading.Barrier(8), []

    def attempt() -> None:
        ready.wait(10)
        try:
            WorkspaceLock(workspace, "the window").acquire()
            outcomes.append("held")
        except UserError as error:
            outcomes.append(error.what)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == 8
    assert outcomes.count("held") == 1, outcomes


def test_a_network_drive_without_file_locks_will_do(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with WorkspaceLock(workspace, "the window"), pytest.raises(InUse):
        WorkspaceLock(workspace, "the window").acquire()


def test_a_folder_that_cannot_be_written_is_reported(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        WorkspaceLock(workspace, "the window").acquire()


def test_the_age_of_a_process() -> None:
    mine = process_start(os.getpid())
    assert mine and process_start(os.getpid()) == mine
    assert process_start(2**22 + 1) is None, "no system has so many"
    assert same_start("100.00", "101.50") and not same_start("100.00", "200.00")
    assert not same_start("boot-1 500", "boot-2 500") and same_start("", "boot-2 500")


def test_the_installer_sees_who_is_open_on_any_workspace(workspace: Workspace) -> None:
    def asked() -> list[list[object]]:
        done = subprocess.run([sys.executable, "-c", ASK], cwd=APP_FOLDER, capture_output=True, check=True)
        return [owner for owner in json.loads(done.stdout) if owner[2] == os.getpid()]

    with WorkspaceLock(workspace, "the window") as lock:
        lock.set_address("http://127.0.0.1:7860")
        assert ["the window", "http://127.0.0.1:7860", os.getpid(), True, platform.node()] in asked()
        count = len(asked())
    assert len(asked()) == count - 1


def test_an_app_that_was_killed_is_not_open(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "OPEN_APPS", tmp_path / "open")
    lock = WorkspaceLock(workspace, "the window").acquire()
    (note,) = (tmp_path / "open").iterdir()
    assert [owner.doing for owner in open_apps()] == ["the window"]
    with app_open("the command export"):
        assert sorted(owner.doing for owner in open_apps()) == ["the command export", "the window"]
    note.write_text(json.dumps({**json.loads(note.read_text(encoding="utf-8")), "started": "other 1"}), "utf-8")
    assert open_apps() == []
    assert not note.exists()
    lock.release()
    (tmp_path / "open").rmdir()
    (tmp_path / "open").touch()  # as an app folder that cannot be written: the app opens all the same
    with WorkspaceLock(workspace, "the window"):
        assert open_apps() == []
