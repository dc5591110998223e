"""--where, --uninstall, and the size of the download before it begins."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.install import cli, uninstall
from engine.install.console import Console, InstallError
from engine.install.hardware import Gpu, GpuReport
from engine.install.layout import Layout
from engine.install.places import amount, size_of, workspace_of
from engine.install.shortcut import make_shortcut
from engine.install.sizes import download_sentence
from engine.install.torch_choice import BUILDS, Choice

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a .desktop file")


def put(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that nobody uses, so that no cache or shortcut of the person who runs the tests is looked at."""
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "PIP_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("CONTROLNET_STUDIO_WORKSPACE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    yield tmp_path / "home"


@pytest.fixture
def full(any_root: Path, home: Path) -> Path:
    """An app folder with everything in it that can be."""
    for name in (
        ".venv/lib/torch.so",
        ".install/python/bin/python3",
        ".install/install.log",
        ".install/previous/app.py",
        ".install/kept/presets/mine.toml",
        "workspace/datasets/set/dataset.json",
        "workspace/models/base/model.safetensors",
        "workspace/queue.json",
        "app.py",
    ):
        put(any_root / name, 2**20)
    return any_root


def test_where_shows_each_place_with_its_size_and_changes_nothing(
    full: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home / ".cache" / "huggingface" / "hub" / "blob", 3 * 2**20)
    before = sorted(full.rglob("*"))
    assert cli.main(["--where"], full) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"      1 MB  private Python: {full / '.install' / 'python'}" in lines
    assert f"      2 MB  log and previous version: {full / '.install'}" in lines  # without python and kept
    assert f"      1 MB  downloaded and added models: {full / 'workspace' / 'models'}" in lines
    assert f"      1 MB  everything else in the workspace: {full / 'workspace'}" in lines
    assert f"      3 MB  Hugging Face's downloads: {home / '.cache' / 'huggingface' / 'hub'}" in lines
    assert sorted(full.rglob("*")) == before
    assert cli.main(["--where", "--workspace", str(full / "other")], full) == 0
    assert "models" not in capsys.readouterr().out


def test_sizes_leave_out_links_and_what_cannot_be_read(tmp_path: Path) -> None:
    put(tmp_path / "a" / "file", 10)
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    assert size_of(tmp_path / "a") < 10_000 and size_of(tmp_path / "none") == 0
    assert [amount(size) for size in (0, 1, 2**20, 5 * 2**29)] == ["0 MB", "1 MB", "1 MB", "2.5 GB"]


def test_the_workspace_is_the_one_that_the_app_would_use(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert workspace_of(layout, None, {}) == tmp_path / "workspace"
    assert workspace_of(layout, None, {"CONTROLNET_STUDIO_WORKSPACE": "/sets"}) == Path("/sets").absolute()
    assert workspace_of(layout, str(tmp_path / "w"), {"CONTROLNET_STUDIO_WORKSPACE": "/sets"}) == tmp_path / "w"


@LINUX
def test_uninstall_deletes_what_was_installed_and_keeps_what_is_the_users(
    full: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = put(home / ".cache" / "pip" / "wheel", 10)
    shortcut = Path(make_shortcut(full))
    assert shortcut.exists()
    assert cli.main(["--uninstall", "--yes"], full) == 0
    left = sorted(path.relative_to(full).as_posix() for path in full.rglob("*") if path.is_file())
    assert [name for name in left if not name.startswith("requirements")] == [
        ".install/kept/presets/mine.toml",
        "app.py",
        "workspace/datasets/set/dataset.json",
        "workspace/models/base/model.safetensors",
        "workspace/queue.json",
    ]
    assert not shortcut.exists() and cache.exists()
    assert f"move {full / 'workspace'} first" in capsys.readouterr().out


def test_uninstall_asks_and_no_is_the_default(full: Path, home: Path) -> None:
    before = sorted(full.rglob("*"))
    console, answers = Console(None, io.StringIO()), iter(("", "n", "what?", "Y"))
    workspace = full / "workspace"

    def answer(_: str) -> str:
        return next(answers)

    for _ in range(3):
        assert uninstall.uninstall(Layout(full), console, {}, workspace, ask=answer) == 1
    assert sorted(full.rglob("*")) == before

    def no_terminal(_: str) -> str:
        raise EOFError

    with pytest.raises(InstallError, match="no terminal"):
        uninstall.uninstall(Layout(full), console, {}, workspace, ask=no_terminal)
    assert uninstall.uninstall(Layout(full), console, {}, workspace, ask=answer) == 0
    assert not (full / ".venv").exists()


def test_uninstall_where_nothing_is_installed_asks_nothing_and_leaves_nothing(
    root: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(root.rglob("*"))
    assert cli.main(["--uninstall"], root) == 0
    assert "Nothing is installed" in capsys.readouterr().out and sorted(root.rglob("*")) == before


def test_a_workspace_in_a_folder_that_would_be_deleted_stops_uninstall(full: Path, home: Path) -> None:
    shutil.move(full / "workspace", full / ".install" / "mine")
    (full / "workspace").symlink_to(full / ".install" / "mine")
    before = sorted(full.rglob("*"))
    for named in ("workspace", ".install/mine"):
        with pytest.raises(InstallError, match="would be deleted"):
            uninstall.uninstall(Layout(full), Console(None, io.StringIO()), {}, full / named, agreed=True)
    assert sorted(full.rglob("*")) == before


def test_a_linked_environment_and_workspace_are_measured_and_kept_by_what_they_are(
    full: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("workspace", ".venv"):
        shutil.move(full / name, tmp_path / f"disk {name}")
        (full / name).symlink_to(tmp_path / f"disk {name}")
    (full / ".install" / "python").rename(full / ".install" / "gone")
    (full / ".install" / "python").symlink_to(full / "nowhere")
    assert cli.main(["--where"], full) == 0
    assert f"1 MB  datasets: {tmp_path / 'disk workspace' / 'datasets'}" in capsys.readouterr().out
    assert cli.main(["--uninstall", "--yes"], full) == 0
    assert not (full / ".venv").is_symlink() and not (full / ".install" / "python").is_symlink()
    assert (tmp_path / "disk .venv/lib/torch.so").exists()
    assert (tmp_path / "disk workspace/models/base/model.safetensors").exists() and (full / "workspace").is_symlink()


def test_ctrl_c_is_a_no_and_an_app_that_was_opened_meanwhile_stops_it(full: Path, home: Path) -> None:
    before = sorted(full.rglob("*"))
    console, workspace = Console(None, io.StringIO()), full / "workspace"

    def interrupt(_: str) -> str:
        raise KeyboardInterrupt

    def opens(_: str) -> str:
        put(full / ".install" / "open" / "1.json", 1)
        return "y"

    assert uninstall.uninstall(Layout(full), console, {}, workspace, ask=interrupt) == 1
    assert sorted(full.rglob("*")) == before
    with pytest.raises(InstallError, match="whether the app is open"):
        uninstall.uninstall(Layout(full), console, {}, workspace, ask=opens)
    assert (full / ".venv").exists()


def test_uninstall_stops_while_the_app_is_open_or_a_file_cannot_be_deleted(
    full: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = put(full / ".install" / "open" / "1.json", 1)
    assert cli.main(["--uninstall", "--yes"], full) == 1
    assert "Could not determine whether the app is open" in capsys.readouterr().out and (full / ".venv").exists()
    note.unlink()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as locked:
        locked.setattr(shutil, "rmtree", refuse)
        assert cli.main(["--uninstall", "--yes"], full) == 1
    assert "Close every window of the app" in capsys.readouterr().out
    assert cli.main(["--uninstall", "--yes"], full) == 0  # goes on from there


def test_a_private_python_on_windows_leaves_itself_to_install_bat(
    full: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "base_prefix", str(full / ".install" / "python"))
    layout, console = Layout(full, windows=True), Console(None, io.StringIO())
    assert uninstall.uninstall(layout, console, {}, full / "workspace", agreed=True) == 0
    assert sorted(path.name for path in (full / ".install").iterdir()) == ["kept", "python", "remove"]


def test_yes_is_for_uninstall_alone(full: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--yes"], full)
    before = sorted(full.rglob("*"))
    assert cli.main(["--uninstall", "--dry-run"], full) == 0 and sorted(full.rglob("*")) == before


def test_the_size_of_the_download_is_told_before_it_begins(
    root: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = GpuReport((Gpu("RTX 3060", 12288, (580, 95), (8, 6)),))
    monkeypatch.setattr(cli, "detect_gpus", lambda timeout=0.0: card)
    monkeypatch.setattr(cli, "run_steps", lambda job, steps: job.console.say("the steps"))
    assert cli.main(["--install-only"], root) == 0
    shown = capsys.readouterr().out
    assert "To download: about" in shown.split("the steps")[0]
    assert cli.main(["--dry-run"], root) == 0
    assert "To download: about" in capsys.readouterr().out


def test_the_size_is_known_for_every_build_and_system() -> None:
    for build in ("cpu", *(build.name for build in BUILDS)):
        for system in ("linux", "win32"):
            assert "about" in download_sentence(Choice(build, ""), system)
    assert "about 3.0 GB (PyTorch 2.7 GB, other packages 0.3 GB), 8 min at 50 Mbit/s" in download_sentence(
        Choice("cu130", ""), "linux"
    )
    assert "several GB" in download_sentence(Choice("cu999", ""), "linux")
