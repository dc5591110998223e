"""The system's own folder dialog, in a process of its own: a crash or a hang of it cannot touch the app."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping

TIMEOUT_SECONDS = 300
DIALOG = """
import sys, tkinter
from tkinter import filedialog
root = tkinter.Tk()
root.withdraw()
root.attributes("-topmost", True)
sys.stdout.reconfigure(encoding="utf-8")
print(filedialog.askdirectory(parent=root, mustexist=True, title="The folder with your pictures") or "")
"""


def dialog_possible(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """Whether a dialog could open: a display, and a Python with Tk."""
    if platform.startswith("linux") and not (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")):
        return False
    return importlib.util.find_spec("tkinter") is not None and importlib.util.find_spec("_tkinter") is not None


def ask_folder(timeout: float = TIMEOUT_SECONDS) -> str:
    """The chosen folder, or empty where the user chose none or the dialog could not open."""
    try:
        told = subprocess.run(
            [sys.executable, "-c", DIALOG], capture_output=True, encoding="utf-8", timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""
