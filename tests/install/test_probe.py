"""Which Pythons will do."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.install import probe


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_supported_versions(version: tuple[int, int]) -> None:
    assert probe.reason_against(version, 64, "/usr/bin/python3", []) == ""


@pytest.mark.parametrize("version", [(2, 7), (3, 9), (3, 10), (3, 14)])
def test_other_versions_are_refused_by_name(version: tuple[int, int]) -> None:
    reason = probe.reason_against(version, 64, "/usr/bin/python3", [])
    assert f"Python {version[0]}.{version[1]}" in reason
    assert "3.11 to 3.13" in reason


def test_32_bits_and_the_store_and_a_missing_venv_are_refused() -> None:
    assert "32-bit" in probe.reason_against((3, 12), 32, "python.exe", [])
    store = r"C:\Users\a\AppData\Local\Microsoft\WindowsApps\python.exe"
    assert "Microsoft Store" in probe.reason_against((3, 12), 64, store, [])
    assert "sudo apt install python3.12-venv" in probe.reason_against((3, 12), 64, "/usr/bin/python3", ["ensurepip"])


@pytest.mark.parametrize(
    ("module", "name", "value", "says"),
    [
        (probe.sys, "implementation", SimpleNamespace(name="pypy"), "it is pypy"),
        (probe.sysconfig, "get_config_var", lambda name: 1, "free-threaded"),
        (probe.sys, "platform", "cygwin", "MSYS2 or Cygwin"),
        (probe.sys, "platform", "darwin", "which this Mac translates"),
        (probe.sys, "platform", "linux", ""),
    ],
)
def test_pythons_that_packages_have_no_builds_for_are_refused(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object, says: str
) -> None:
    monkeypatch.setattr(probe.os, "popen", lambda command: io.StringIO("1\n"))
    monkeypatch.setattr(module, name, value)
    reason = probe.unusual_build()
    monkeypatch.undo()
    assert says in reason and bool(says) is bool(reason)


def test_it_prints_a_path_and_nothing_else() -> None:
    result = subprocess.run([sys.executable, probe.__file__], capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()).exists()
    assert len(result.stdout.splitlines()) == 1


def test_any_old_python_can_parse_it() -> None:
    tree = ast.parse(Path(probe.__file__).read_text(encoding="utf-8"), feature_version=(3, 4))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr)]
    assert not any(node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
