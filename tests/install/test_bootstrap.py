"""install.sh: finding a Python among good, old and broken ones, in any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.install.pretended import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a POSIX shell script")
TOOLS = ("sh", "dirname", "readlink", "sed", "env")
GOOD = f'exec "{sys.executable}" "$@"'
OLD = "echo 'it is Python 3.8; 3.11 to 3.13 are supported' >&2; exit 1"
STORE_ALIAS = "exit 9"


class Shell:
    """An app folder with the real install.sh, and a PATH with nothing but what a test puts there."""

    def __init__(self, root: Path, path: Path, tools: Sequence[str] = TOOLS) -> None:
        self.root = root
        self.path = path
        path.mkdir()
        for tool in tools:
            (path / tool).symlink_to(shutil.which(tool) or "/bin/false")
        shutil.copy(ROOT / "install.sh", root)
        shutil.copytree(ROOT / "engine" / "install", root / "engine" / "install")
        shutil.copy(ROOT / "engine" / "__init__.py", root / "engine")
        (root / "engine" / "disk").mkdir()
        for name in ("__init__.py", "typed_path.py"):
            shutil.copy(ROOT / "engine" / "disk" / name, root / "engine" / "disk")

    def put(self, name: str, script: str) -> None:
        (self.path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (self.path / name).chmod(0o755)

    def start(self, *arguments: str, script: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(script or self.root / "install.sh"), *arguments],
            env={"PATH": str(self.path), "HOME": str(self.root), **variables},
            cwd=self.path,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )


@pytest.fixture
def shell(any_root: Path, tmp_path: Path) -> Shell:
    return Shell(any_root, tmp_path / "bin")


def test_a_suitable_python_runs_the_installer(shell: Shell) -> None:
    shell.put("python3", GOOD)
    result = shell.start("--dry-run")
    assert result.returncode == 0, result.stderr
    assert "would install torch" in result.stdout
    assert not (shell.root / ".venv").exists()


def test_an_old_default_python_is_passed_over(shell: Shell) -> None:
    shell.put("python3", OLD)
    shell.put("python3.12", STORE_ALIAS)
    shell.put("python3.13", GOOD)
    assert "would install torch" in shell.start("--dry-run").stdout


def test_without_a_python_it_says_what_to_install(shell: Shell) -> None:
    shell.put("python3", OLD)
    (shell.path / "uname").symlink_to(shutil.which("uname") or "/bin/false")
    (shell.path / "mkdir").symlink_to(shutil.which("mkdir") or "/bin/false")
    (shell.path / "sha256sum").symlink_to(shutil.which("sha256sum") or "/bin/false")
    result = shell.start()
    assert result.returncode == 1
    assert "Cause: no suitable Python was found, and neither curl nor wget to fetch one." in result.stderr
    assert "it is Python 3.8" in result.stderr
    assert "sudo apt install python3 python3-venv" in result.stderr


def test_another_pythons_settings_do_no_harm(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('the wrong argparse')", encoding="utf-8")
    shell.put("python3", GOOD)
    result = shell.start("--dry-run", PYTHONPATH=str(tmp_path), PYTHONHOME="/nowhere", VIRTUAL_ENV="/nowhere")
    assert result.returncode == 0, result.stderr


def test_it_can_be_started_through_a_link(shell: Shell, tmp_path: Path) -> None:
    shell.put("python3", GOOD)
    link = tmp_path / "studio"
    link.symlink_to(shell.root / "install.sh")
    assert "would install torch" in shell.start("--dry-run", script=link).stdout


def test_a_reader_that_goes_away_is_no_traceback(shell: Shell) -> None:
    shell.put("python3", GOOD)
    shell.put("quits", "exec 0<&-; sleep 0.2")
    (shell.path / "sleep").symlink_to(shutil.which("sleep") or "/bin/false")
    result = subprocess.run(
        ["sh", "-c", '"$0/install.sh" --dry-run | quits', str(shell.root)],
        env={"PATH": str(shell.path)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.stderr == ""


def test_wrong_options_give_the_usage(shell: Shell) -> None:
    shell.put("python3", GOOD)
    result = shell.start("--nonsense")
    assert result.returncode == 2
    assert "usage: install.sh" in result.stderr


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no /usr/bin/python3 here")
def test_on_a_mac_the_python_that_would_open_a_window_is_not_started(tmp_path: Path) -> None:
    """Without Apple's developer tools /usr/bin/python3 offers to install them."""
    text = (ROOT / "install.sh").read_text(encoding="utf-8")
    function = text[text.index("exists() {") :].split("\n}\n")[0] + "\n}\nexists python3"
    for system, tools, there in (("Darwin", 2, False), ("Darwin", 0, True), ("Linux", 2, True)):
        for name, script in (("uname", f"echo {system}"), ("xcode-select", f"exit {tools}")):
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            (tmp_path / name).chmod(0o755)
        result = subprocess.run(["sh", "-c", function], env={"PATH": f"{tmp_path}:/usr/bin"}, check=False)
        assert (result.returncode == 0) is there


def test_shellcheck_has_nothing_to_say() -> None:
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    scripts = [
        str(ROOT / "install.sh"),
        str(ROOT / "engine" / "install" / "fetch_python.sh"),
        str(ROOT / ".ci" / "run"),
    ]
    result = subprocess.run([shellcheck, *scripts], capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stdout
