"""Finds or installs a Chromium for the browser tests."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.install.console import Console, InstallError
from engine.install.layout import Layout, note

VARIABLE = "STUDIO_CHROMIUM"  # tells the tests the browser's path; empty or absent: no browser
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "msedge", "chrome")
WINDOWS_PLACES = (r"Google\Chrome\Application\chrome.exe", r"Microsoft\Edge\Application\msedge.exe")


def find_browser(record: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> str | None:
    """Path of a Chromium: $STUDIO_CHROMIUM, one on the PATH, Windows' usual places, or the one installed before."""
    candidates = [environment.get(VARIABLE), *(shutil.which(name, path=environment.get("PATH")) for name in NAMES)]
    for variable in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"):
        if environment.get(variable):
            candidates += [str(Path(environment[variable]) / place) for place in WINDOWS_PLACES]
    candidates.append(record.get("browser"))
    return next((found for found in candidates if found and Path(found).is_file()), None)


def ensure_browser(layout: Layout, console: Console, environment: Mapping[str, str], required: bool) -> str:
    """Install a Chromium if possible and return its path. Without one: "none" and a warning, or InstallError in CI."""
    if sys.platform.startswith("linux") and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**environment, "DEBIAN_FRONTEND": "noninteractive"}
        console.run(["apt-get", "update"], quiet, layout.root)
        console.run(["apt-get", "install", "-y", "--no-install-recommends", "chromium"], quiet, layout.root)
        found = find_browser({})
        if found:
            return found
    outcome = console.run([layout.python, "-m", "playwright", "install", "chromium"], environment, layout.root)
    if outcome.code == 0:
        code = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
        path = console.run([layout.python, "-c", code], environment, layout.root).output.strip()
        if Path(path).is_file():
            note(layout, browser=path)
            return path
    if required:
        raise InstallError("No browser for the tests, and CI=true.", "Install Chromium: apt-get install chromium")
    console.warn("No Chromium, Chrome or Edge was found or could be installed: the browser tests are skipped.")
    return "none"
