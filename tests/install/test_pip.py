"""pip's errors in words, its progress, and where it keeps unfinished downloads."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.install.console import InstallError, Outcome
from engine.install.failures import explain, killed
from engine.install.layout import Layout
from engine.install.pip import TEMPORARY, Pip, show_progress
from tests.install.pretended import Machine


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying ... NewConnectionError('...: Failed to establish a new connection')", "interrupted"),
        ("ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407'))", "proxy refused"),
        ("SSLError(SSLCertVerificationError(1, 'certificate verify failed'))", "certificate"),
        ("ERROR: Could not install packages due to an OSError: [WinError 5] Access is denied: 'cv2.pyd'", "in use"),
        ("ERROR: Could not find a version that satisfies the requirement gradio>=6.31", "no version of a package"),
        ("SSLError(SSLEOFError(8, '[SSL: UNEXPECTED_EOF_WHILE_READING]'))", "interrupted"),
        ("ERROR: ... an OSError: Please check proxy URL. It is malformed", "proxy refused"),
        ("ERROR: ... an OSError: [Errno 122] Disk quota exceeded: '/home/me/x'", "disk is full"),
        ("ERROR: ... an OSError: [Errno 30] Read-only file system: '/home/me/x'", "disk reports an error"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "damaged"),
        ("ERROR: Wheel 'torch' located at /tmp/torch-2.13.0.whl is invalid.", "damaged"),
        ("ERROR: ... because of HTTP error 403 Client Error: Forbidden for url: https://x", "refused"),
        ("ERROR: ... (Caused by ResponseError('too many 503 error responses'))", "refused"),
        ("ERROR: ResolutionImpossible: for help visit", "incompatible versions"),
        ("something\nERROR: a new kind of trouble\n", "a new kind of trouble"),
        ("", "pip printed nothing"),
    ],
)
def test_errors_are_explained_with_cause_and_fix(output: str, cause: str) -> None:
    error = explain(Outcome(1, output), "PyTorch")
    assert error.cause.startswith("PyTorch could not be installed")
    assert cause in error.cause
    assert error.fix


def test_a_broken_connection_is_reported_rather_than_the_missing_package_that_follows() -> None:
    output = "NameResolutionError: ...\nERROR: No matching distribution found for torch==2.13.0"
    assert "no connection" in explain(Outcome(1, output), "PyTorch").cause


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (-4, "processor lacks"),
        (0xC000001D, "processor lacks"),
        (-9, "memory ran out"),
        (-6, "crashed"),
        (-11, "crashed"),
    ],
)
def test_a_program_that_the_system_ended_is_told_by_its_exit_status(code: int, cause: str) -> None:
    assert cause in explain(Outcome(code, "Collecting torch"), "PyTorch").cause
    assert killed(1) is None and killed(0) is None


class Watched(Machine):
    """Remembers pip's folders for temporary files. Its first ``damaged`` downloads are damaged."""

    damaged = 0

    def run(self, command, environment, cwd, on_line=None) -> Outcome:  # type: ignore[no-untyped-def]
        self.folders = [Path(environment[name]) for name in TEMPORARY]
        assert all(folder.is_dir() and not (folder / "left by a kill").exists() for folder in self.folders)
        (self.folders[0] / "pip-unpack-1").mkdir(exist_ok=True)
        super().run(command, environment, cwd, on_line)
        self.damaged -= 1
        bad = "ERROR: Wheel 'torch' located at /x/torch.whl is invalid."
        return Outcome(1, bad) if self.damaged >= 0 else Outcome(0, "")


def test_unfinished_downloads_are_on_the_apps_disk_and_do_not_stay(root: Path) -> None:
    """/tmp is often a part of the memory, in which a wheel of 5 GB does not fit."""
    machine = Watched(Layout(root, windows=False))
    (machine.layout.downloads / "left by a kill").mkdir(parents=True)
    pip = Pip(machine.layout, machine, {"PATH": "/usr/bin", "TMPDIR": "/tmp"})
    pip.install("PyTorch", ["torch"])
    assert all(folder.is_relative_to(root) for folder in machine.folders)
    assert not machine.layout.downloads.exists() and pip.environment["TMPDIR"] == "/tmp"


def test_a_damaged_download_is_fetched_again_without_the_cache_that_may_hold_it(root: Path) -> None:
    machine = Watched(Layout(root, windows=False))
    machine.damaged = 1
    Pip(machine.layout, machine, {}).install("PyTorch", ["torch"])
    assert [("--no-cache-dir" in command) for command in machine.commands] == [False, True]
    machine.damaged = 2
    with pytest.raises(InstallError, match="damaged twice"):
        Pip(machine.layout, machine, {}).install("PyTorch", ["torch"])


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Progress 1310720000 of 2621440000", "\t1,250 of 2,500 MB"),
        ("  Downloading https://host/path/torch-2.13.0.whl (2.5 GB)", "downloading torch-2.13.0.whl (2.5 GB)"),
        ("Collecting gradio<7,>=6.31", "collecting gradio<7,>=6.31"),
        ("Requirement already satisfied: numpy", None),
    ],
)
def test_progress(line: str, shown: str | None) -> None:
    assert show_progress(line) == shown
