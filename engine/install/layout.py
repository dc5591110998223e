"""Where the installer keeps its files, the environment of its child processes, and the record of what is installed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Settings of another Python that would leak into ours. pip's proxy, index and certificate settings stay.
SCRUBBED = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"}
IN_USE = (5, 32, 33, 145, 1224)  # as in engine/disk/in_use.py
WAITS = (0.1, 0.2, 0.4, 0.8, 1.5, 2, 2.5, 2.5)  # seconds; ten together


@dataclass(frozen=True)
class Layout:
    """The app folder, and the paths of what the installer makes in it."""

    root: Path
    windows: bool = os.name == "nt"

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """The virtual environment's Python."""
        return self.venv / ("Scripts/python.exe" if self.windows else "bin/python")

    @property
    def log(self) -> Path:
        return self.root / ".install" / "install.log"

    @property
    def constraints(self) -> Path:
        return self.root / ".install" / "constraints.txt"

    @property
    def downloads(self) -> Path:
        """Where pip keeps what it has not finished downloading; deleted after each installation."""
        return self.root / ".install" / "downloads"

    @property
    def record(self) -> Path:
        """Inside the virtual environment, so that it is deleted together with what it describes."""
        return self.venv / "controlnet-studio.json"

    @property
    def site_packages(self) -> Path:
        """The folder of the installed packages, which may not exist yet."""
        if self.windows:
            return self.venv / "Lib" / "site-packages"
        found = sorted((self.venv / "lib").glob("python3.*/site-packages"))
        return found[-1] if found else self.venv / "lib" / "python3" / "site-packages"

    def python_version(self) -> str:
        """Version of the virtual environment's Python from its pyvenv.cfg, e.g. "3.12.4"; "" if there is none."""
        found = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+(?:\.\d+)?)", self._settings(), re.MULTILINE)
        return found.group(1) if found else ""

    def is_orphaned(self) -> bool:
        """Whether the Python that the virtual environment was made from is gone: its folder in pyvenv.cfg is.

        On Windows the environment's own python.exe is still there then, but it cannot start.
        """
        home = re.search(r"^home\s*=\s*(.+?)\s*$", self._settings(), re.MULTILINE)
        return home is not None and not Path(home.group(1)).is_dir()

    def _settings(self) -> str:
        try:
            return (self.venv / "pyvenv.cfg").read_text(encoding="utf-8")
        except OSError:
            return ""


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy for child processes: without settings of another Python, with UTF-8; network settings are kept."""
    kept = {
        name: value
        for name, value in environment.items()
        if name.upper() not in SCRUBBED and not name.upper().startswith("CONDA_")
    }
    kept["PYTHONUTF8"] = "1"
    kept["PYTHONNOUSERSITE"] = "1"  # packages in the user's home must not shadow ours
    kept["PIP_USER"] = "0"  # "user = true" in a pip.conf fails inside a virtual environment
    kept["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    kept["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # cards are counted as nvidia-smi counts them; else the fastest is first
    return kept


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary name, then rename: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    until_free(lambda: temporary.replace(path))


def until_free(action: Callable[[], object]) -> None:
    """Call ``action``; retry for ten seconds while a program, such as a virus scanner, has a file open on Windows."""
    for wait in (*WAITS, None):
        try:
            action()
            return
        except OSError as error:
            if wait is None or getattr(error, "winerror", None) not in IN_USE:
                raise
        time.sleep(wait)


def delete(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder with everything in it, when no program has it open."""
    is_folder = path.is_dir() and not path.is_symlink()
    until_free(partial(shutil.rmtree, path) if is_folder else path.unlink)


def read_record(layout: Layout) -> dict[str, Any]:
    """The record of earlier runs. Empty if there is none or it cannot be read: then the steps run again."""
    try:
        record = json.loads(layout.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def note(layout: Layout, **entries: Any) -> None:
    """Add entries to the record."""
    write_atomically(layout.record, json.dumps({**read_record(layout), **entries}, indent=2) + "\n")


def installed_torch(layout: Layout) -> tuple[str, str]:
    """(version, build) of the installed torch, without importing it: ("2.13.0+cu130", "cu130"), or ("", "").

    The build is "cpu" for a Mac's, too, which has no mark.

    pip writes RECORD last, so a torch without one is half installed and does not count.
    """
    site = layout.site_packages
    if not any(site.glob("torch-*.dist-info/RECORD")):
        return "", ""
    try:
        text = (site / "torch" / "version.py").read_text(encoding="utf-8")
    except OSError:
        return "", ""
    version = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", text)
    cuda = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    if not version:
        return "", ""
    if cuda:
        return version.group(1), "cu" + "".join(cuda.group(1).split(".")[:2])
    mark = version.group(1).partition("+")[2]
    return version.group(1), mark if mark.startswith(("rocm", "xpu")) else "cpu"


def stamp(layout: Layout, requirements: str = "requirements.txt") -> str:
    """Hash of everything that decides what has to be installed: the requirements, torch's build, Python's version."""
    digest = hashlib.sha256()
    digest.update((layout.root / requirements).read_bytes().replace(b"\r\n", b"\n"))
    digest.update("|".join([*installed_torch(layout), layout.python_version()]).encode())
    return digest.hexdigest()
