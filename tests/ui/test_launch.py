"""Starting and ending the app: ports, options, no network access, Ctrl-C."""

from __future__ import annotations

import http.client
import socket
import sys
import time
from pathlib import Path

import pytest

from engine.errors import UserError
from tests.browser.studio import ROOT, Studio, free_port, studio
from ui import launch
from ui.dataset import folder_dialog
from ui.server import serve

SLOWEST_START = 60  # seconds on a busy machine; about three on an idle one


@pytest.fixture
def taken_port() -> object:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_wanted_port_in_use_is_reported(taken_port: int) -> None:
    with pytest.raises(UserError, match=f"Port {taken_port} is in use"):
        serve.choose_port("127.0.0.1", taken_port)


def test_without_port_the_next_free_one_is_taken(taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "FIRST_PORT", taken_port)
    assert serve.choose_port("127.0.0.1", None) > taken_port


def test_it_is_reported_if_no_port_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "is_free", lambda host, port: False)
    with pytest.raises(UserError, match="No free port"):
        serve.choose_port("127.0.0.1", None)


def test_listening_needs_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        launch.parse_arguments(["--listen"])
    assert ended.value.code == 2
    assert "--password" in capsys.readouterr().err


def test_a_workspace_that_cannot_be_created_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert (
        launch.main(["--workspace", str(tmp_path / "file" / "workspace"), "--no-browser"]) == launch.EXIT_CANNOT_START
    )
    assert "--workspace" in capsys.readouterr().err


def test_settings_of_other_gradio_apps_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.workspace.paths import Workspace

    monkeypatch.setattr(serve.os, "environ", {"GRADIO_SHARE": "True", "PATH": "x"})
    serve.prepare_environment(Workspace(tmp_path))
    assert "GRADIO_SHARE" not in serve.os.environ
    assert serve.os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert serve.os.environ["GRADIO_TEMP_DIR"].startswith(str(tmp_path))


def test_without_a_display_the_folder_dialog_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not folder_dialog.has_display({}, "linux") and folder_dialog.has_display({}, "win32")
    assert folder_dialog.has_display({"WAYLAND_DISPLAY": "wayland-0"}, "linux")
    monkeypatch.setattr(folder_dialog, "has_display", lambda: False)
    with pytest.raises(UserError) as caught:
        folder_dialog.ask_folder()
    assert "no screen" in caught.value.why and "paste" in caught.value.try_this


def test_the_first_folder_dialog_that_opens_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_dialog, "has_display", lambda: True)
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    fails = [sys.executable, "-c", "raise SystemExit(1)"]
    answers = [sys.executable, "-c", "print('/home/me/pictures ü')"]
    hangs = [sys.executable, "-c", "import threading; threading.Event().wait(30)"]
    monkeypatch.setattr(folder_dialog, "dialogs", lambda: [["/no/such/program"], fails, answers, fails])
    assert folder_dialog.ask_folder() == "/home/me/pictures ü"
    monkeypatch.setattr(folder_dialog, "dialogs", lambda: [fails])
    with pytest.raises(UserError, match="cannot open here"):
        folder_dialog.ask_folder()
    monkeypatch.setattr(folder_dialog, "dialogs", lambda: [hangs, answers])
    assert folder_dialog.ask_folder(timeout=0.3) == "", "nobody answered; a second dialog would only puzzle"


def ask(port: int, path: str = "/", method: str = "GET", **headers: str) -> int:
    """Return the status of a request with exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host="host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse().status


@pytest.mark.slow
def test_start_is_quick_offline_and_guarded_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    calls = tmp_path / "calls.txt"
    program = (str(ROOT / "tests" / "ui" / "page" / "watched.py"),)
    started = time.monotonic()
    with studio(tmp_path / "workspace", program=program, STUDIO_CALLS=str(calls), DISPLAY="") as app:
        assert time.monotonic() - started < SLOWEST_START
        assert app.printed().strip() == f"ControlNet Studio is open at {app.address}"

        assert ask(app.port) == 200
        assert ask(app.port, host="evil.example") == 403
        assert ask(app.port, method="POST", path="/gradio_api/upload", origin="http://evil.example") == 403
        (app.workspace / "datasets" / "page.html").write_text("<script>1</script>", encoding="utf-8")
        assert ask(app.port, f"/gradio_api/file={app.workspace}/datasets/page.html") in (403, 404)

        second = Studio(tmp_path / "other", port=app.port)
        assert second.process.wait(60) == launch.EXIT_CANNOT_START
        assert f"Port {app.port} is in use" in second.printed()

        if sys.platform != "win32":
            assert app.ask_to_end() == 0
            assert "ControlNet Studio is closed." in app.printed()
    assert not calls.exists(), calls.read_text(encoding="utf-8")


def test_free_ports_are_free() -> None:
    assert serve.is_free("127.0.0.1", free_port())
