"""Makes a desktop shortcut that starts the app."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from engine.install.console import InstallError
from engine.install.layout import write_atomically

TITLE = "ControlNet Studio"
# The paths are passed in environment variables, so nothing has to be quoted.
POWERSHELL = (
    "$d=[Environment]::GetFolderPath('Desktop');"
    "$s=(New-Object -ComObject WScript.Shell).CreateShortcut([IO.Path]::Combine($d,$env:STUDIO_TITLE+'.lnk'));"
    "$s.TargetPath=$env:STUDIO_TARGET;$s.WorkingDirectory=$env:STUDIO_ROOT;$s.Save();Write-Output $s.FullName"
)


def make_shortcut(root: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Make the shortcut and return its path. Raises InstallError if it cannot be written."""
    if sys.platform == "darwin":
        raise InstallError(
            "Shortcuts are made on Windows and Linux only.", "In the Finder, drag the app's folder into the Dock."
        )
    return _windows_shortcut(root, environment) if sys.platform == "win32" else _linux_shortcut(root, environment)


def _linux_shortcut(root: Path, environment: Mapping[str, str]) -> str:
    """Add it to the menu, and to the desktop if there is one (Desktop Entry Specification of freedesktop.org)."""
    written = [path for path in _linux_paths(environment) if path.parent.name == "applications" or path.parent.is_dir()]
    for path in written:
        try:
            write_atomically(path, desktop_entry(root))
            path.chmod(0o755)
        except OSError as error:
            raise InstallError(
                f"The shortcut {path} could not be written: {error}", "Check that you may write to that folder."
            ) from error
    return " and ".join(map(str, written))


def _linux_paths(environment: Mapping[str, str]) -> list[Path]:
    """Of the shortcut in the menu and of the one on the desktop."""
    home = Path(environment.get("HOME") or Path.home())
    menu = Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share") / "applications"
    return [folder / "controlnet-studio.desktop" for folder in (menu, _linux_desktop(home, environment))]


def linux_shortcuts(root: Path, environment: Mapping[str, str]) -> list[Path]:
    """The shortcuts that start the app of this folder. On Windows none is found."""
    if sys.platform == "win32":
        return []
    return [path for path in _linux_paths(environment) if _starts(path, root)]


def _starts(path: Path, root: Path) -> bool:
    try:
        return path.read_text(encoding="utf-8") == desktop_entry(root)
    except (OSError, UnicodeDecodeError):
        return False


def _linux_desktop(home: Path, environment: Mapping[str, str]) -> Path:
    """The desktop folder, whose name depends on the language."""
    try:
        output = subprocess.run(
            ["xdg-user-dir", "DESKTOP"], env=dict(environment), capture_output=True, encoding="utf-8", check=False
        ).stdout.strip()
    except OSError:  # the tool is not installed
        output = ""
    return Path(output) if output and Path(output) != home else home / "Desktop"


def desktop_entry(root: Path) -> str:
    """The text of the .desktop file. Exec is quoted twice: as an argument, then with the file's own backslashes."""
    script = str(root / "install.sh").replace("%", "%%")
    for special in '\\"`$':
        script = script.replace(special, "\\" + special)
    command = f'"{script}"'.replace("\\", "\\\\")
    lines = [
        "[Desktop Entry]",
        "Type=Application",
        "Version=1.0",
        f"Name={TITLE}",
        "Comment=Train a ControlNet on your own images",
        f"Exec={command}",
        "Path=" + str(root).replace("\\", "\\\\"),
        "Terminal=true",
        "Categories=Graphics;",
    ]
    return "\n".join(lines) + "\n"


def _windows_shortcut(root: Path, environment: Mapping[str, str]) -> str:
    variables = {"STUDIO_TITLE": TITLE, "STUDIO_TARGET": str(root / "install.bat"), "STUDIO_ROOT": str(root)}
    answer = subprocess.run(
        ["powershell", "-NoProfile", "-NonInteractive", "-Command", POWERSHELL],
        env={**environment, **variables},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if answer.returncode:
        raise InstallError(
            f"PowerShell could not create the shortcut: {answer.stderr.strip()[:200]}",
            "Right-click install.bat, then Send to > Desktop.",
        )
    return answer.stdout.strip()
