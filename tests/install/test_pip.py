"""pip's errors in words, and its progress."""

from __future__ import annotations

import pytest

from engine.install.pip import explain, show_progress


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying ... NewConnectionError('...: Failed to establish a new connection')", "interrupted"),
        ("ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407'))", "proxy refused"),
        ("SSLError(SSLCertVerificationError(1, 'certificate verify failed'))", "certificate"),
        ("ERROR: Could not install packages due to an OSError: [WinError 5] Access is denied: 'cv2.pyd'", "in use"),
        ("ERROR: Could not find a version that satisfies the requirement gradio>=6.31", "no version of a package"),
        ("ERROR: ResolutionImpossible: for help visit", "incompatible versions"),
        ("something\nERROR: a new kind of trouble\n", "a new kind of trouble"),
        ("", "pip printed nothing"),
    ],
)
def test_errors_are_explained_with_cause_and_fix(output: str, cause: str) -> None:
    error = explain(output, "PyTorch")
    assert error.cause.startswith("PyTorch could not be installed")
    assert cause in error.cause
    assert error.fix


def test_a_broken_connection_is_reported_rather_than_the_missing_package_that_follows() -> None:
    output = "NameResolutionError: ...\nERROR: No matching distribution found for torch==2.13.0"
    assert "no connection" in explain(output, "PyTorch").cause


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
