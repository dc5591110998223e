"""Detects the cards (NVIDIA's with their driver), the memory and the free disk space."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from engine.install.other_cards import OtherCard, detect_others

FIELDS = ("name", "memory.total", "driver_version", "compute_cap")
OFF_PATH = (
    r"C:\Windows\System32\nvidia-smi.exe",
    r"C:\Program Files\NVIDIA Corporation\NVSMI\nvidia-smi.exe",
    "/usr/lib/wsl/lib/nvidia-smi",  # WSL does not put it on the PATH
)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA card, as its driver reports it."""

    name: str
    memory_mib: int  # 0 if the driver does not report it
    driver: tuple[int, ...]  # (580, 65, 6)
    capability: tuple[int, int] | None  # (8, 6); None if the driver is too old to report it

    @property
    def label(self) -> str:
        memory = f", {self.memory_mib / 1024:.0f} GB" if self.memory_mib else ""
        return f"{self.name}{memory}, driver {'.'.join(map(str, self.driver)) or 'unknown'}"


@dataclass(frozen=True)
class GpuReport:
    """The cards. ``problem``: why no NVIDIA card was found although there may be one; "" if there simply is none."""

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    others: tuple[OtherCard, ...] = ()
    """Cards of other makers, the best first."""

    def only(self, maker: str) -> GpuReport:
        """The cards of one maker ("nvidia", "amd" or "intel"); all of them for ""."""
        if maker == "nvidia":
            return replace(self, others=())
        if maker:
            return GpuReport(others=tuple(card for card in self.others if card.maker.lower() == maker))
        return self


def find_nvidia_smi() -> str | None:
    """Path of nvidia-smi: on the PATH, or where Windows and WSL have it."""
    found = shutil.which("nvidia-smi")
    return found or next((path for path in OFF_PATH if Path(path).is_file()), None)


def detect_gpus(timeout: float = 15.0) -> GpuReport:
    """All cards. Never raises: if NVIDIA's driver does not answer, the report says so."""
    return replace(detect_nvidia(timeout), others=detect_others(timeout=timeout))


def detect_nvidia(timeout: float = 15.0) -> GpuReport:
    """Ask nvidia-smi for the cards."""
    tool = find_nvidia_smi()
    if tool is None:
        return GpuReport()
    problem = ""
    # Drivers before 510 do not know compute_cap and reject the whole query, so ask again without it.
    for fields in (FIELDS, FIELDS[:3]):
        command = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return GpuReport(problem=f"nvidia-smi did not respond within {timeout:.0f} seconds")
        except OSError as error:
            return GpuReport(problem=f"nvidia-smi could not be started: {error}")
        report = parse_nvidia_smi(answer.stdout)
        if report.gpus:
            return report
        lines = (answer.stderr + "\n" + answer.stdout).strip().splitlines()
        problem = f"nvidia-smi answered: {lines[-1].strip()[:200]}" if lines else "nvidia-smi printed nothing"
    return GpuReport(problem=problem)


def parse_nvidia_smi(text: str) -> GpuReport:
    """Parse nvidia-smi's lines "name, MiB, driver, capability"; other lines are ignored."""
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) not in (3, 4):
            continue
        driver = _numbers(cells[2])
        if not cells[0] or not driver:
            continue
        capability = _numbers(cells[3]) if len(cells) == 4 else ()
        memory = _numbers(cells[1])
        gpus.append(
            Gpu(
                name=cells[0],
                memory_mib=memory[0] if memory else 0,
                driver=driver,
                capability=(capability[0], capability[1]) if len(capability) == 2 else None,
            )
        )
    return GpuReport(tuple(gpus))


def _numbers(text: str) -> tuple[int, ...]:
    """ "580.65.06" -> (580, 65, 6); () for anything that is not dotted numbers."""
    parts = text.split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


def free_disk_gb(folder: Path) -> float:
    """Free space for this user on the folder's disk, in GB (2**30 bytes)."""
    return shutil.disk_usage(folder).free / 2**30


def memory_gb() -> float:
    """Installed main memory in GB (2**30 bytes); 0.0 if the system does not report it."""
    if sys.platform == "win32":
        return _windows_memory_gb()
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return 0.0


def _windows_memory_gb() -> float:
    import ctypes

    class Status(ctypes.Structure):  # MEMORYSTATUSEX
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            *((name, ctypes.c_ulonglong) for name in ("free", "page", "page_free", "virtual", "virtual_free", "ext")),
        ]

    status = Status(length=ctypes.sizeof(Status))
    windll = getattr(ctypes, "windll", None)
    if windll is None or not windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0.0
    return status.total / 2**30
