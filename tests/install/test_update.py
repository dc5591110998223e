"""--update from an archive: exchanged, checked, and back as it was whenever anything fails."""

from __future__ import annotations

import errno
import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import stat
import subprocess
import threading
import urllib.request
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.install import archive, cli, exchange
from engine.install.console import InstallError
from engine.install.edition import edition
from engine.install.in_use import UPDATING, only_one
from engine.install.layout import Layout, read_record
from engine.version import VERSION
from tests.install.pretended import ROOT
from tests.install.versions import app_files, files, killed, make_installed, make_zip, ran, update

OLD = files("0.1.0", docs__old_md="old", engine__gone_py="gone = 1")
NEW = files("0.2.0", ui__new_py="new = 1", docs__new_md="new")
FAILS = files("0.3.0", requirements="fails\n", ui__new_py="new = 1")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return make_installed(tmp_path / "app folder", OLD)


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    return make_zip(tmp_path / "new.zip", NEW)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the files in tmp_path."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as found:
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def require_old(app: Path) -> None:
    """Nothing has changed, and nothing is left over."""
    assert app_files(app) == OLD
    assert not exchange.update_folder(Layout(app)).exists()
    assert (app / "workspace/presets/mine.toml").is_file()


@pytest.mark.answers("How do I get the newest version?")
def test_the_newest_archive_replaces_the_files_and_nothing_else(
    app: Path, newer: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(archive, "ADDRESS", f"{server}/new.zip")
    digest = hashlib.sha256(newer.read_bytes()).hexdigest()
    newer.with_name("new.zip.sha256").write_text(f"{digest}  new.zip\n", encoding="utf-8")
    (app / "notes.txt").write_text("mine", encoding="utf-8")
    (app / "presets/own.toml").write_text("mine", encoding="utf-8")
    assert update(app) == 0
    assert app_files(app) == {**NEW, "notes.txt": "mine"}
    assert ran(app) == ["0.2.0 --install-only"], "the new version installs and checks itself"
    assert (app / "workspace/presets/mine.toml").is_file() and (app / "workspace/runs/first").is_dir()
    assert (app / "install.sh").stat().st_mode & stat.S_IXUSR
    previous = exchange.previous_folder(Layout(app))
    kept = exchange.kept_folder(Layout(app))
    assert (previous / "presets/8gb.toml").read_text(encoding="utf-8") == "# 0.1.0\n"
    assert (kept / "presets/own.toml").read_text(encoding="utf-8") == "mine"
    shown = capsys.readouterr().out
    assert "Updated from 0.1.0 to 0.2.0" in shown
    assert "presets/own.toml" in shown, "a file that is moved away is named"
    assert not exchange.update_folder(Layout(app)).exists()

    assert update(app) == 0, "a second time there is nothing to do"
    assert "this is already the newest version" in capsys.readouterr().out
    assert ran(app) == ["0.2.0 --install-only"]
    assert update(app, str(make_zip(newer.with_name("third.zip"), files("0.4.0")))) == 0
    assert (kept / "presets/own.toml").is_file(), "no later update deletes what may be the person's own"


def test_packages_that_may_change_are_not_taken_for_installed(app: Path, newer: Path) -> None:
    assert update(app, str(newer)) == 0
    assert read_record(Layout(app)) == {"checked": "", "requirements.txt": ""}


def test_a_version_that_fails_its_check_goes_back_by_itself(
    app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert update(app, str(make_zip(tmp_path / "bad.zip", FAILS))) == 1
    require_old(app)
    assert ran(app) == ["0.3.0 --install-only", "0.1.0 --install-only"], "the old packages come back, too"
    shown = capsys.readouterr().out
    assert "did not pass its check: torch is broken. The previous version is back and works." in shown


@pytest.mark.skipif(os.name == "nt", reason="fork and SIGKILL")
def test_killed_at_any_moment_the_next_start_repairs(app: Path, newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "hand_over", lambda *arguments: 0)
    monkeypatch.setattr(os, "sync", lambda: None)  # it waits for all that other programs write
    script = (ROOT / "install.sh").read_text(encoding="utf-8")
    put_engine_back = next(line for line in script.splitlines() if line.startswith("[ -e engine ]"))
    moments = 0
    while killed(lambda: update(app, str(newer)), exchange, "move", moments):
        if exchange.read_journal(Layout(app)) is None:
            assert app_files(app) == NEW, "the check had passed"
            break
        subprocess.run(["sh", "-c", put_engine_back], cwd=app, check=True)
        if moments % 3 == 1:  # the repair is killed, too, and repeated
            killed(lambda: cli.main(["--install-only"], app), exchange, "move", moments // 3)
            subprocess.run(["sh", "-c", put_engine_back], cwd=app, check=True)
        if exchange.read_journal(Layout(app)) is not None:
            assert cli.main(["--install-only"], app) == 0
        require_old(app)
        moments += 1
    assert moments > 12, "there is a moment before every rename"


def test_after_a_repair_the_old_version_does_what_was_asked(
    app: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts: list[list[str]] = []
    monkeypatch.setattr(cli, "hand_over", lambda layout, words, *rest: starts.append(words) or 7)
    exchange.write_journal(Layout(app), kind="archive", names=["app.py"], added=[])
    assert cli.main(["--doctor"], app) == 1, "which changes nothing, but tells it"
    assert "An update was interrupted." in capsys.readouterr().out
    assert cli.main(["--port", "8000"], app) == 7
    assert starts == [["-m", "engine.install", "--port", "8000"]]
    assert "An update was interrupted. The previous version is back." in capsys.readouterr().out
    require_old(app)


def test_ctrl_c_leaves_the_old_version(
    app: Path, newer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = exchange.move, []

    def interrupted(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 7:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(exchange, "move", interrupted)
    assert update(app, str(newer)) == 130
    assert "Stopped. The previous version is in place." in capsys.readouterr().out
    require_old(app)


@pytest.mark.parametrize("where", ["unpack", "exchange"])
def test_a_full_disk_or_a_file_in_use_leaves_the_old_version(
    where: str, app: Path, newer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    real, calls = shutil.copy2, []

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3 or where == "unpack":
            raise full
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "copyfileobj" if where == "unpack" else "copy2", fail)
    assert update(app, str(newer)) == 1
    assert ("The disk is full" if where == "unpack" else "No space left") in capsys.readouterr().out
    require_old(app)


def test_a_disk_without_room_is_told_before_and_in_mid_download(
    app: Path, newer: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Path.open

    class Full(io.BytesIO):
        def write(self, block: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(self: Path, *arguments: object, **more: object) -> object:
        return Full() if self.name == "download.zip" else real(self, *arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        assert update(app, f"{server}/new.zip") == 1
    assert "The disk is full. Nothing was changed." in capsys.readouterr().out
    require_old(app)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(5 << 20))
        for source in (f"{server}/new.zip", str(newer)):
            assert update(app, source) == 1
            assert "Only 5 MB are free; the update needs 100 MB." in capsys.readouterr().out
    require_old(app)


def test_archives_that_cannot_be_used_are_refused_in_words(
    app: Path, newer: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = newer.read_bytes()
    (tmp_path / "cut.zip").write_bytes(raw[: len(raw) // 2])
    at = raw.index(b"0.2.0") if b"0.2.0" in raw else 80
    (tmp_path / "bits.zip").write_bytes(raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])
    (tmp_path / "page.zip").write_text("<html>Sign in</html>", encoding="utf-8")
    make_zip(tmp_path / "other.zip", {"README.md": "another program"})
    make_zip(tmp_path / "leads.zip", {**NEW, "../evil.py": "x"}, top="")
    shutil.copy(newer, tmp_path / "swapped.zip")
    (tmp_path / "swapped.zip.sha256").write_text("0" * 64, encoding="utf-8")
    expected = {
        "cut.zip": "damaged or not a zip file",
        "bits.zip": "damaged or not a zip file",
        "page.zip": "damaged or not a zip file",
        "other.zip": "is not ControlNet Studio",
        "leads.zip": "leads outside the app's folder",
        "swapped.zip": "its SHA-256 differs",
        "none.zip": "404",
    }
    for name, words in expected.items():
        assert update(app, f"{server}/{name}") == 1, name
        assert words in capsys.readouterr().out, name
        require_old(app)
    assert update(app, "http://127.0.0.1:9/new.zip") == 1
    assert "No connection to http://127.0.0.1:9/new.zip" in capsys.readouterr().out
    assert update(app, str(tmp_path / "none.zip")) == 1
    assert "There is no file" in capsys.readouterr().out
    assert update(app) == 1
    assert "does not know where new versions are published" in capsys.readouterr().out
    require_old(app)


def test_a_download_that_stops_is_told(app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Stops(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b"PK")

        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Stops) as found:
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        assert update(app, f"http://127.0.0.1:{found.server_port}/new.zip") == 1
        found.shutdown()
    assert "ended after 2 of 5,000 bytes" in capsys.readouterr().out
    require_old(app)


def test_no_update_while_the_app_or_an_update_is_open(
    app: Path, newer: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with only_one(Layout(app), UPDATING):
        assert update(app, str(newer)) == 1
    assert "Another update is running" in capsys.readouterr().out
    notes = app / ".install" / "open"
    notes.mkdir()
    (notes / "a.json").touch()
    answer = json.dumps([["its window", "http://127.0.0.1:7860", 77, True, "here"]])
    python = app / ".venv/bin/python"
    for script, words in ((f"echo '{answer}'", "The app is open (its window at http://127.0.0.1:7860, process 77)"),
                          ("exit 1", "Could not determine")):  # fmt: skip
        python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        python.chmod(0o755)
        assert update(app, str(newer)) == 1
        assert words in capsys.readouterr().out
        require_old(app)
    python.write_text("#!/bin/sh\necho '[]'\n", encoding="utf-8")
    assert update(app, str(newer)) == 0, "what was killed does not count"


def test_the_version_is_read_from_the_folder(app: Path, tmp_path: Path) -> None:
    assert edition(app) == "0.1.0"
    archived = 'VERSION = "0.1.0"\nCOMMIT = "4ac2f5c, 2026-11-29"\n'
    (app / "engine/version.py").write_text(archived, encoding="utf-8")
    assert edition(app) == "0.1.0 (4ac2f5c, 2026-11-29)"
    assert edition(tmp_path / "nowhere") == "unknown"


def test_git_writes_the_commit_into_an_archive(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git clone")
    packed = subprocess.run(["git", "archive", "HEAD", "engine/version.py"], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], input=packed.stdout, cwd=tmp_path, check=True)
    assert edition(tmp_path) == edition(ROOT)
    assert edition(ROOT) != VERSION


def test_a_damaged_journal_is_told(app: Path) -> None:
    exchange.write_journal(Layout(app), kind="archive")
    (exchange.update_folder(Layout(app)) / "journal.json").write_text("{", encoding="utf-8")
    with pytest.raises(InstallError, match="notes cannot be read"):
        exchange.read_journal(Layout(app))


def test_a_dry_run_changes_nothing(app: Path, newer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(app.rglob("*"))
    assert cli.main(["--update", str(newer), "--dry-run"], app) == 0
    assert "would unpack" in capsys.readouterr().out
    assert sorted(app.rglob("*")) == before


def test_an_archive_never_brings_a_workspace(app: Path, tmp_path: Path) -> None:
    bad = {"workspace/runs/x": "x", "Workspace./y": "y", ".venv/bin/python": "z", ".git/config": "w"}
    assert update(app, str(make_zip(tmp_path / "new.zip", {**NEW, **bad}, top=""))) == 0
    assert app_files(app) == NEW
    assert sorted(path.name for path in (app / "workspace").iterdir()) == ["presets", "ran.txt", "runs"]
    assert (app / ".venv/bin/python").read_text(encoding="utf-8") == ""


def test_an_update_stops_while_it_downloads(
    app: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(urllib.request, "urlopen", interrupted)
    assert update(app, "http://localhost/new.zip") == 130
    assert "Stopped. The previous version is in place." in capsys.readouterr().out
    require_old(app)
