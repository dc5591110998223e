"""Folders and computers that will not do, each with a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.install import preflight
from engine.install.console import InstallError
from engine.install.preflight import Computer, check_computer


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    amounts = {"disk": 100.0, "memory": 32.0}
    monkeypatch.setattr(preflight, "free_disk_gb", lambda folder: amounts["disk"])
    monkeypatch.setattr(preflight, "memory_gb", lambda: amounts["memory"])
    return amounts


def test_a_good_folder_passes_and_stays_as_it_was(any_root: Path, disk: dict[str, float]) -> None:
    before = sorted(any_root.iterdir())
    assert preflight.check(any_root, build="cu130", fresh=True) == []
    assert sorted(any_root.iterdir()) == before


def test_too_little_disk_stops_a_fresh_installation(root: Path, disk: dict[str, float]) -> None:
    disk["disk"] = 1.0
    with pytest.raises(InstallError, match="Only 1.0 GB are free"):
        preflight.check(root, build="cpu", fresh=True)


def test_what_an_interrupted_installation_left_counts(
    root: Path, disk: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk["disk"] = 2.8
    monkeypatch.setattr(preflight, "size_of", lambda path: 2**30 if path == root / ".venv" else 0)
    preflight.check(root, build="cpu", fresh=True)
    disk["disk"] = 1.9
    with pytest.raises(InstallError, match="Only 1.9 GB are free"):
        preflight.check(root, build="cpu", fresh=True)


def test_a_full_disk_does_not_stop_what_is_installed_already(root: Path, disk: dict[str, float]) -> None:
    disk["disk"] = 1.0
    assert "1 GB of disk" in preflight.check(root, build="cpu", fresh=False)[0]


def test_training_on_a_card_wants_25_gb(root: Path, disk: dict[str, float]) -> None:
    disk["disk"] = 20.0
    assert "25 GB" in preflight.check(root, build="cu130", fresh=True)[0]
    assert preflight.check(root, build="cpu", fresh=True) == []


def test_amds_build_needs_more_than_the_others(root: Path, disk: dict[str, float]) -> None:
    disk["disk"] = 20.0
    with pytest.raises(InstallError, match="need 25 GB"):
        preflight.check(root, build="rocm7.2", fresh=True)
    preflight.check(root, build="xpu", fresh=True)


def test_little_memory_is_a_warning(root: Path, disk: dict[str, float]) -> None:
    disk["memory"] = 4.0
    assert "4 GB of memory" in preflight.check(root, build="cpu", fresh=True)[0]


def test_a_folder_that_cannot_be_written_is_reported(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(InstallError, match="Cannot write to the folder .*: Permission denied"):
        preflight.check(root, build="cpu", fresh=True)


@pytest.mark.skipif(os.name != "posix", reason="Windows' environments need no links")
def test_a_disk_without_links_or_without_programs_is_told_before_the_download(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = sorted(root.iterdir())
    with monkeypatch.context() as without_links:
        without_links.setattr(Path, "symlink_to", refuse)
        with pytest.raises(InstallError, match="without links, such as FAT"):
            preflight.check_folder(root)
    monkeypatch.setattr(preflight.os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))
    with pytest.raises(InstallError, match="noexec"):
        preflight.check_folder(root)
    assert sorted(root.iterdir()) == before


def test_the_path_separator_in_a_path_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.os, "pathsep", "x")
    with pytest.raises(InstallError, match="Python environments do not allow"):
        preflight.check(tmp_path / "xyz", build="cpu", fresh=True)


@pytest.mark.parametrize(
    ("length", "long_paths", "stopped"), [(59, False, False), (70, False, True), (70, True, False)]
)
def test_windows_wants_a_short_path(
    length: int, long_paths: bool, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.sys, "platform", "win32")
    monkeypatch.setattr(preflight, "long_paths_enabled", lambda: long_paths)
    path = Path("/" + "a" * (length - 1))
    if stopped:
        with pytest.raises(InstallError, match="70 characters"):
            preflight.check_path(path)
    else:
        preflight.check_path(path)


@pytest.mark.parametrize(
    ("computer", "cause"),
    [
        (Computer("linux", "x86_64", ("glibc", "2.28")), ""),
        (Computer("linux", "aarch64", ("glibc", "2.36")), ""),
        (Computer("linux", "x86_64", ("glibc", "2.27")), "glibc 2.27, and 2.28 or newer is needed"),
        (Computer("linux", "x86_64", ("", "")), "C library is not glibc"),
        (Computer("linux", "i686", ("glibc", "2.36")), "no builds for Linux on this processor \\(i686\\)"),
        (Computer("win32", "AMD64"), ""),
        (Computer("win32", "ARM64"), "no builds for Windows on this processor"),
        (Computer("darwin", "arm64", ("", ""), "15.1"), ""),
        (Computer("darwin", "arm64", ("", ""), "13.6.1"), "macOS 13.6.1 is too old"),
        (Computer("darwin", "x86_64", ("", ""), "14.0"), "Intel processor"),
    ],
)
def test_a_computer_that_pytorch_has_no_build_for_is_told_so(computer: Computer, cause: str) -> None:
    if not cause:
        return check_computer(computer)
    with pytest.raises(InstallError, match=cause):
        check_computer(computer)


def test_this_computer_will_do() -> None:
    check_computer(Computer())
