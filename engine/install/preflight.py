"""Checks the computer and the folder before an installation."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.install.console import InstallError
from engine.install.hardware import free_disk_gb, memory_gb
from engine.install.layout import Layout
from engine.install.places import size_of
from engine.install.torch_choice import Choice

LONGEST_ROOT = 60  # characters; the deepest file of the packages lies about 190 characters below, Windows allows 260
# Disk in GB (2**30 bytes, as in the app): for the packages alone, and for training with a Stable Diffusion base.
# While pip installs, a wheel is there three times: downloaded, in pip's cache, and unpacked. The environment of CUDA 13
# takes 5.5 GB (gptme/gptme-contrib pull request 1416), that of ROCm 6.0 took 13 GB (pytorch issue 129165).
LEAST_DISK = {"cpu": 3.0, "card": 10.0, "rocm": 25.0}
COMFORTABLE_DISK = {"cpu": 4.0, "card": 25.0, "rocm": 40.0}
COMFORTABLE_MEMORY = {"cpu": 6.0, "card": 12.0, "rocm": 12.0}  # GB (2**30 bytes)

OLDEST_GLIBC = (2, 28)
"""PyTorch's wheels for Linux are built for it (manylinux_2_28)."""
OLDEST_MACOS = 14
"""The platform tag of PyTorch's wheel for macOS (macosx_14_0_arm64)."""

SYNCED = ("OneDrive", "Dropbox", "Google Drive", "iCloudDrive")  # how the folders of these programs are named


def check(root: Path, build: str, fresh: bool) -> list[str]:
    """Return warnings about the computer and the folder.

    Args:
        build: PyTorch's, such as "cpu" or "cu130".
        fresh: nothing large has been installed yet.

    Raises:
        InstallError: the installation cannot work here.
    """
    check_computer(Computer())
    check_folder(root)
    warnings = []
    free, memory = free_disk_gb(root), memory_gb()
    kind = "cpu" if build == "cpu" else "rocm" if build.startswith("rocm") else "card"
    # What an interrupted installation has left counts, so that the next start goes on where the first one had room.
    if fresh and free < LEAST_DISK[kind] and free + size_of(Layout(root).venv) / 2**30 < LEAST_DISK[kind]:
        raise InstallError(
            f"Only {free:.1f} GB are free on the disk that holds {root}; the packages need {LEAST_DISK[kind]:.0f} GB.",
            "Free some space, or move the app's folder to another drive.",
        )
    if free < COMFORTABLE_DISK[kind]:
        need = COMFORTABLE_DISK[kind]
        warnings.append(f"{free:.0f} GB of disk are free; {need:.0f} GB are recommended for training.")
    synced = _synced_by(root)
    if synced:
        warnings.append(
            f"This folder is inside {synced}, which uploads what is installed, several GB, and holds files open while "
            "it does: move the app's folder out of it, or pause it until the installation has ended."
        )
    if memory and memory < COMFORTABLE_MEMORY[kind]:
        need = COMFORTABLE_MEMORY[kind]
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


@dataclass(frozen=True)
class Computer:
    """What decides whether PyTorch has a build at all."""

    system: str = sys.platform
    machine: str = field(default_factory=platform.machine)
    libc: tuple[str, str] = field(default_factory=platform.libc_ver)
    """Name and version, such as ("glibc", "2.36"). Python finds no name for musl."""
    macos: str = field(default_factory=lambda: platform.mac_ver()[0])


def check_computer(computer: Computer) -> None:
    """Raise InstallError if PyTorch has no build for this kind of computer, with a card or without."""
    machine = computer.machine.lower()
    if computer.system == "darwin":
        if machine != "arm64":
            raise InstallError(
                "PyTorch has no builds for Macs with an Intel processor any more.",
                "Use a Mac with Apple's own processor, or a computer with Windows or Linux.",
            )
        version = computer.macos.partition(".")[0]
        if version.isdecimal() and int(version) < OLDEST_MACOS:
            raise InstallError(
                f"macOS {computer.macos} is too old for PyTorch, which needs {OLDEST_MACOS} or newer.", "Update macOS."
            )
    elif computer.system == "win32":
        if machine not in ("amd64", "x86_64"):
            raise InstallError(
                f"The packages have no builds for Windows on this processor ({computer.machine}).",
                "Use a computer with a 64-bit processor of Intel or AMD.",
            )
    elif machine not in ("x86_64", "amd64", "aarch64", "arm64"):
        raise InstallError(
            f"PyTorch has no builds for Linux on this processor ({computer.machine}).",
            "Use a computer with a 64-bit processor of Intel or AMD, and a 64-bit system.",
        )
    else:
        _check_libc(*computer.libc)


def _check_libc(name: str, version: str) -> None:
    if name != "glibc":
        raise InstallError(
            "PyTorch has no builds for this Linux, whose C library is not glibc (Alpine and others with musl).",
            "Use Debian, Ubuntu, Fedora or another Linux with glibc; a container will do.",
        )
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers and numbers < OLDEST_GLIBC:
        raise InstallError(
            f"This Linux is too old for PyTorch: it has glibc {version}, and 2.28 or newer is needed.",
            "Use a newer one, such as Debian 11 or Ubuntu 20.04.",
        )


def check_folder(root: Path) -> None:
    """Raise InstallError if nothing can be installed into the folder, because of its path, its rights or its disk."""
    check_path(root)
    _check_writable(root)
    if os.name == "posix":
        _check_disk(root)


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


def _check_disk(root: Path) -> None:
    """Raise InstallError if the disk has no links, which Python environments need, or may not hold programs."""
    link = root / f"link-test-{uuid.uuid4().hex}.tmp"
    try:
        link.symlink_to("nowhere")
        link.unlink()
    except OSError as error:
        raise InstallError(
            f"The disk that holds {root} has a file system without links, such as FAT or exFAT.",
            "Move the app's folder to a disk of the system, such as your home folder.",
        ) from error
    if os.statvfs(root).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise InstallError(
            f"No program may run from the disk that holds {root} (it is mounted with noexec).",
            "Move the app's folder to another disk, such as your home folder.",
        )
