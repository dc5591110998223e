"""--update of a git clone: fast-forward only, from a clean main, and back if the new version fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from engine.install import cli, exchange
from engine.install.clone import Clone
from engine.install.edition import edition
from engine.install.layout import Layout
from tests.install.versions import app_files, commit, files, git, killed, make_installed, ran, update

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
OLD = files("0.1.0", engine__gone_py="gone = 1")
NEW = files("0.2.0", ui__new_py="new = 1")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """The repository where the app comes from, at its first version."""
    (tmp_path / "origin").mkdir()
    git(tmp_path / "origin", "init", "-q", "-b", "main")
    commit(tmp_path / "origin", OLD)
    return tmp_path / "origin"


@pytest.fixture
def app(tmp_path: Path, origin: Path) -> Path:
    git(tmp_path, "clone", "-q", origin.as_uri(), "app folder")
    return make_installed(tmp_path / "app folder", {})


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD").strip()


def test_a_clone_is_fast_forwarded(app: Path, origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert update(app) == 0
    assert "this is already the newest version" in capsys.readouterr().out
    assert ran(app) == []
    new = commit(origin, NEW)
    (app / "notes.txt").write_text("mine", encoding="utf-8")
    assert update(app) == 0
    assert (head(app), app_files(app)) == (new, {**NEW, "notes.txt": "mine"})
    assert ran(app) == ["0.2.0 --install-only"]
    assert f"to 0.2.0 ({new[:7]}" in capsys.readouterr().out
    assert edition(app).startswith(f"0.2.0 ({new[:7]}, 20")
    assert not exchange.update_folder(Layout(app)).exists()


def test_a_commit_that_fails_its_check_is_left_again(
    app: Path, origin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = head(app)
    commit(origin, files("0.3.0", requirements="fails\n", ui__new_py="x"))
    assert update(app) == 1
    assert (head(app), app_files(app), git(app, "status", "--porcelain")) == (old, OLD, "")
    assert ran(app) == ["0.3.0 --install-only", "0.1.0 --install-only"]
    assert "torch is broken. The previous version is back" in capsys.readouterr().out


def test_nothing_is_touched_where_the_clone_is_the_persons_own(
    app: Path, origin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(origin, NEW)

    def refused(words: str) -> None:
        before = (head(app), app_files(app))
        assert update(app) == 1
        assert words in capsys.readouterr().out
        assert (head(app), app_files(app)) == before

    (app / "app.py").write_text("changed", encoding="utf-8")
    refused("You have changed files of the app: app.py. Nothing was changed.")
    git(app, "checkout", "-q", "app.py")
    (app / "ui").mkdir()
    (app / "ui/new.py").write_text("mine", encoding="utf-8")
    refused("files of the new version: ui/new.py")
    (app / "ui/new.py").unlink()
    git(app, "switch", "-q", "-c", "mine")
    refused('The clone is on the branch "mine"; updates follow main.')
    git(app, "switch", "-q", "--detach")
    refused("a single commit")
    git(app, "switch", "-q", "main")
    git(app, "commit", "-q", "--allow-empty", "-m", "own")
    refused("has its own commits")


def test_without_a_network_it_says_so(
    app: Path, origin: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("http://127.0.0.1:9/none.git", str(app.parent / "gone")):
        git(app, "remote", "set-url", "origin", address)
        assert update(app) == 1
        assert "No connection to the server that the clone came from" in capsys.readouterr().out
    assert update(app, "some.zip") == 1
    assert "cannot be updated from an archive" in capsys.readouterr().out
    monkeypatch.setenv("PATH", str(app))
    assert update(app) == 1
    assert "git is not installed" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="fork and SIGKILL")
def test_killed_in_mid_merge_the_next_start_goes_back(
    app: Path, origin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "hand_over", lambda *arguments: 0)
    old, new = head(app), commit(origin, NEW)
    assert killed(lambda: update(app), Clone, "count", 0), "right after the merge"
    assert head(app) == new
    assert cli.main([], app) == 0
    assert (head(app), app_files(app), git(app, "status", "--porcelain")) == (old, OLD, "")
    assert "An update was interrupted" in capsys.readouterr().out

    exchange.write_journal(Layout(app), kind="git", old=old, new=new)  # git was killed between two files
    (app / "ui").mkdir()
    (app / "ui/new.py").write_text(NEW["ui/new.py"], encoding="utf-8")
    (app / "engine/gone.py").unlink()
    (app / ".git/index.lock").touch()
    assert cli.main([], app) == 0
    assert (head(app), app_files(app), git(app, "status", "--porcelain")) == (old, OLD, "")


def test_after_a_kill_what_the_person_did_with_git_since_stays(
    app: Path, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "hand_over", lambda *arguments: 0)
    old, new = head(app), commit(origin, NEW)
    git(app, "fetch", "-q")
    exchange.write_journal(Layout(app), kind="git", old=old, new=new)
    (app / "app.py").write_text("mine", encoding="utf-8")
    git(app, "commit", "-q", "-a", "-m", "own")
    own = head(app)
    assert cli.main([], app) == 0
    assert head(app) == own and app_files(app)["app.py"] == "mine"
    assert exchange.read_journal(Layout(app)) is None


def test_what_cannot_be_put_back_at_once_waits_for_the_next_start(
    app: Path, origin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(origin, files("0.3.0", requirements="fails\n"))
    real = Clone.back

    def in_use(self: Clone, old: str, new: str) -> None:
        raise PermissionError(13, "in use", "app.py")

    monkeypatch.setattr(Clone, "back", in_use)
    assert update(app) == 1
    assert "could not be restored yet: [Errno 13] in use: 'app.py'" in capsys.readouterr().out
    assert app_files(app) != OLD
    monkeypatch.setattr(Clone, "back", real)
    monkeypatch.setattr(cli, "hand_over", lambda *arguments: 0)
    assert cli.main([], app) == 0
    assert app_files(app) == OLD
