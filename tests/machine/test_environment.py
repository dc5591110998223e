"""What the surroundings of the program may be like: consoles without all letters, users without a name."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.machine import environment
from engine.workspace.paths import APP_FOLDER


@pytest.mark.skipif(sys.platform == "win32", reason="the locales of POSIX systems")
@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    ],
)
def test_a_console_without_all_letters_and_names_with_them(tmp_path: Path, variables: dict[str, str]) -> None:
    """Letters that the console does not have are replaced; those of files and workspaces are kept."""
    folder = tmp_path / "猫 é"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    for name in ("é", "😀"):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    workspace = tmp_path / "wsé😀"
    command = [sys.executable, "-m", "engine.cli", "--workspace", str(workspace), "import", str(folder), "--name", "猫"]
    done = subprocess.run(
        command, cwd=APP_FOLDER, env=os.environ | variables, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"2 images" in done.stdout and b"Traceback" not in done.stderr
    assert (workspace / "datasets" / "猫" / "dataset.json").is_file()


def test_a_user_number_without_a_name_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run under one. torch's compiler asks for the name and would fail."""

    def no_such_user() -> str:
        if name := os.environ.get("USER"):
            return name
        raise KeyError("getpwuid(): uid not found: 12345")

    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(getpass, "getuser", no_such_user)
    environment.prepare()
    assert getpass.getuser()
