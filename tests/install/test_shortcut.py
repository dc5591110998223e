"""The desktop shortcut starts the very install.sh, whatever its path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.install.console import InstallError
from engine.install.shortcut import desktop_entry, make_shortcut

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a .desktop file")


def exec_words(entry: str) -> list[str]:
    """The words of the Exec line as a desktop reads them: the file's escapes, the argument's quotes, the %-codes."""
    line = next(line for line in entry.splitlines() if line.startswith("Exec="))[len("Exec=") :]
    line = line.replace("\\\\", "\\")
    assert line[0] == line[-1] == '"'
    word, escaped = "", False
    for letter in line[1:-1]:
        if letter == "\\" and not escaped:
            escaped = True
            continue
        word, escaped = word + letter, False
    return [word.replace("%%", "%")]


@pytest.mark.parametrize("name", ["plain", "with space", "caf\u00e9", "wow!", 'a"b', "100%", "a$b`c", "back\\slash"])
def test_the_path_comes_through_both_quotings(name: str) -> None:
    root = Path("/home/someone") / name
    assert exec_words(desktop_entry(root)) == [str(root / "install.sh")]


@LINUX
def test_it_lands_in_the_menu_and_on_the_desktop(any_root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "Desktop").mkdir(parents=True)
    script = any_root / "install.sh"
    script.write_text(f'#!/bin/sh\necho ran >"{any_root}/ran"\n', encoding="utf-8")
    script.chmod(0o755)
    text = make_shortcut(any_root, {"HOME": str(home), "PATH": os.environ["PATH"]})
    entry = home / "Desktop" / "controlnet-studio.desktop"
    assert str(entry) in text
    assert (home / ".local/share/applications/controlnet-studio.desktop").read_bytes() == entry.read_bytes()
    assert os.access(entry, os.X_OK)
    subprocess.run(exec_words(entry.read_text(encoding="utf-8")), check=True)
    assert (any_root / "ran").exists()


@LINUX
def test_without_a_desktop_it_lands_in_the_menu(root: Path, tmp_path: Path) -> None:
    text = make_shortcut(root, {"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    assert text == str(tmp_path / ".local/share/applications/controlnet-studio.desktop")


def test_on_a_mac_it_says_what_to_do_instead(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.install.shortcut.sys.platform", "darwin")
    with pytest.raises(InstallError, match="Windows and Linux only"):
        make_shortcut(root, {})
