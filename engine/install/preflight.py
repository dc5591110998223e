"""Checks the computer and the folder before an installation."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from engine.install.console import InstallError
from engine.install.hardware import free_disk_gb, memory_gb
from engine.install.torch_choice import Choice

LONGEST_ROOT = 60  # characters; the deepest file of the packages lies about 190 characters below, Windows allows 260
# Disk in GB (2**30 bytes, as in the app): for the packages alone, and for training with a Stable Diffusion base.
LEAST_DISK = {False: 3.0, True: 10.0}  # by "with a card": the CUDA libraries are large
COMFORTABLE_DISK = {False: 4.0, True: 25.0}
COMFORTABLE_MEMORY = {False: 6.0, True: 12.0}  # GB (2**30 bytes)

SYNCED = ("OneDrive", "Dropbox", "Google Drive", "iCloudDrive")  # how the folders of these programs are named


def check(root: Path, with_card: bool, fresh: bool) -> list[str]:
    """Return warnings about the computer and the folder.

    Args:
        fresh: nothing large has been installed yet.

    Raises:
        InstallError: the installation cannot work here.
    """
    check_folder(root)
    warnings = []
    free, memory = free_disk_gb(root), memory_gb()
    if fresh and free < LEAST_DISK[with_card]:
        raise InstallError(
            f"Only {free:.1f} GB are free on the disk that holds {root}; the packages need "
            f"{LEAST_DISK[with_card]:.0f} GB.",
            "Free some space, or move the app's folder to another drive.",
        )
    if free < COMFORTABLE_DISK[with_card]:
        need = COMFORTABLE_DISK[with_card]
        warnings.append(f"{free:.0f} GB of disk are free; {need:.0f} GB are recommended for training.")
    synced = _synced_by(root)
    if synced:
        warnings.append(
            f"This folder is inside {synced}, which uploads what is installed, several GB, and holds files open while "
            "it does: move the app's folder out of it, or pause it until the installation has ended."
        )
    if memory and memory < COMFORTABLE_MEMORY[with_card]:
        need = COMFORTABLE_MEMORY[with_card]
        warnings.append(
            f"This computer has {memory:.0f} GB of memory; {need:.0f} GB are recommended. Close other programs."
        )
    return warnings


def summary(root: Path, choice: Choice) -> str:
    """Card, memory and disk in one line, for the step."""
    device = choice.reason if choice.build != "cpu" or choice.gpu else "no card used"
    return f"{device}; {memory_gb():.0f} GB memory, {free_disk_gb(root):.0f} GB disk free"


def _synced_by(root: Path, environment: Mapping[str, str] = os.environ) -> str:
    """The program that copies the folder to a cloud; "" if none is known to."""
    named = [environment.get(name) for name in ("OneDrive", "OneDriveConsumer", "OneDriveCommercial")]
    if any(folder and root.is_relative_to(folder) for folder in named):
        return "OneDrive"
    return next((name for name in SYNCED for part in root.parts if part.startswith(name)), "")


def check_folder(root: Path) -> None:
    """Raise InstallError if nothing can be installed into the folder, because of its path or its rights."""
    check_path(root)
    _check_writable(root)


def check_path(root: Path) -> None:
    if os.pathsep in str(root):
        raise InstallError(
            f'The folder\'s path contains "{os.pathsep}", which Python environments do not allow: {root}',
            "Rename the folder.",
        )
    if sys.platform == "win32" and len(str(root)) > LONGEST_ROOT and not long_paths_enabled():
        raise InstallError(
            f"The folder's path has {len(str(root))} characters; with the packages, Windows allows at most "
            f"{LONGEST_ROOT}: {root}",
            "Move the folder closer to the root of the drive, e.g. to C:\\ControlNetStudio.",
        )


def long_paths_enabled() -> bool:
    """Whether Windows allows paths of more than 260 characters."""
    if sys.platform != "win32":
        return True
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except OSError:
        return False


def _check_writable(root: Path) -> None:
    probe = root / f"write-test-{uuid.uuid4().hex}.tmp"
    try:
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise InstallError(
            f"Cannot write to the folder {root}: {error.strerror or error}",
            "Move it to a folder of your own (such as your home folder, not C:\\Program Files), or unpack the archive "
            "first.",
        ) from error
