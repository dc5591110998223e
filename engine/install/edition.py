"""Which version of the app lies in a folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

BAT_OR_SH = "install.bat" if os.name == "nt" else "./install.sh"


def edition(root: Path) -> str:
    """The version, and the commit and its date where they are known, e.g. "0.1.0 (4ac2f5c, 2026-11-29)".

    A clone asks git; in an archive, git has written the commit into engine/version.py (export-subst in .gitattributes).
    """
    try:
        text = (root / "engine" / "version.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    version = re.search(r'^VERSION = "(.+)"', text, re.MULTILINE)
    commit = re.search(r'^COMMIT = "([^$"]+)"', text, re.MULTILINE)
    known = commit.group(1) if commit else _commit_of_clone(root)
    return (version.group(1) if version else "unknown") + (f" ({known})" if known else "")


def _commit_of_clone(root: Path) -> str:
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    command = [git, "-C", str(root), "log", "-1", "--format=%h, %cs"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
