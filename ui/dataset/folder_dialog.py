"""The folder dialog of the operating system, in a separate process, so that its crash or hang cannot harm the app."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

from engine.errors import UserError

TIMEOUT_SECONDS = 300
TITLE = "The folder with your images"
DIALOG = f"""
import sys, tkinter
from tkinter import filedialog
root = tkinter.Tk()
root.withdraw()
root.attributes("-topmost", True)
sys.stdout.reconfigure(encoding="utf-8")
print(filedialog.askdirectory(parent=root, mustexist=True, title="{TITLE}") or "")
"""
POWERSHELL = f"""
Add-Type -AssemblyName System.Windows.Forms
[Console]::OutputEncoding = [Text.Encoding]::UTF8
$dialog = New-Object System.Windows.Forms.FolderBrowserDialog
$dialog.Description = '{TITLE}'
if ($dialog.ShowDialog() -eq 'OK') {{ Write-Output $dialog.SelectedPath }}
"""
CANCELLED = 1  # exit status of zenity, kdialog and osascript when the user cancels


def has_display(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """Return whether a window can open at all."""
    return not platform.startswith("linux") or bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def dialogs(platform: str = sys.platform) -> list[list[str]]:
    """Return the commands that ask for a folder and print it, best first, of the programs that are installed."""
    own = [[sys.executable, "-c", DIALOG]] if importlib.util.find_spec("_tkinter") else []
    others = {
        "zenity": ["--file-selection", "--directory", "--title", TITLE],
        "kdialog": ["--title", TITLE, "--getexistingdirectory"],
        "python3": ["-c", DIALOG],  # the system's Python may have Tk if ours has not
        "powershell": ["-NoProfile", "-STA", "-Command", POWERSHELL],
        "osascript": ["-e", f'POSIX path of (choose folder with prompt "{TITLE}")'],
    }
    usual = {"win32": ("powershell",), "darwin": ("osascript",)}.get(platform, ("zenity", "kdialog", "python3"))
    return own + [[path, *others[name]] for name in usual if (path := shutil.which(name))]


def ask_folder(timeout: float = TIMEOUT_SECONDS) -> str:
    """Ask the user for a folder. Returns an empty string if they cancel.

    Raises:
        UserError: no dialog can open here.
    """
    if not has_display():
        raise _cannot_open("The app has no screen: it was started without a desktop.")
    for command in dialogs():
        try:
            done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return ""  # no answer
        except OSError:
            continue
        reports_cancel = command[0] != sys.executable and "-c" not in command
        if done.returncode == 0 or (reports_cancel and done.returncode == CANCELLED):
            return done.stdout.strip() if done.returncode == 0 else ""
    raise _cannot_open("None of the system's folder dialogs could be opened.")


def _cannot_open(why: str) -> UserError:
    return UserError(
        "A folder dialog cannot open here.",
        why,
        "Copy the folder's path in your file manager and paste it into the box.",
    )
