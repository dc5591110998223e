"""The hardware of this machine, found without loading torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import psutil

from engine.machine.units import format_memory


@dataclass(frozen=True)
class Hardware:
    """What a run can use."""

    device: str
    """"cuda" or "cpu"."""
    name: str
    vram_gib: float | None
    """None without a usable graphics card."""
    ram_gib: float
    cores: int
    banner: str = ""
    """Why a run uses the processor although there is a graphics card; empty if it does not."""
    cards: int = 1
    """Usable graphics cards, 1 if there is none. ``name`` and ``vram_gib`` are those of the largest."""

    @property
    def sentence(self) -> str:
        if self.vram_gib is not None:
            others = f" (the largest of {self.cards} cards)" if self.cards > 1 else ""
            return f"{self.name}, {format_memory(self.vram_gib)}{others}"
        return f"no graphics card in use; processor with {self.cores} cores, {format_memory(self.ram_gib)} memory"


def _nvidia_smi() -> str | None:
    for place in (shutil.which("nvidia-smi"), r"C:\Windows\System32\nvidia-smi.exe", "/usr/lib/wsl/lib/nvidia-smi"):
        if place and Path(place).exists():
            return place
    return None


def query_cards() -> list[tuple[str, float]]:
    """(name, memory in GiB) of each NVIDIA card that the driver reports; empty if there is none."""
    program = _nvidia_smi()
    if program is None:
        return []
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        rows = [line.rsplit(",", 1) for line in output.splitlines() if "," in line]
        return [(name.strip(), float(memory) / 1024) for name, memory in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []  # a card whose driver does not answer cannot be used


@lru_cache(maxsize=1)
def detect() -> Hardware:
    """This machine. Takes about a tenth of a second: the driver is asked, torch is not loaded."""
    cards = query_cards()
    build = metadata.version("torch")
    ram, cores = psutil.virtual_memory().total / 2**30, os.cpu_count() or 1
    cpu_build = "+cpu" in build or (platform.system() == "Windows" and "+cu" not in build)
    if cards and not cpu_build:
        name, vram = max(cards, key=lambda card: card[1])
        return Hardware("cuda", name, vram, ram, cores, cards=len(cards))
    banner = ""
    if cards:
        banner = (
            f"{cards[0][0]} was detected but is not used: this PyTorch ({build}) is a CPU-only build. "
            "Run the installer again with --repair."
        )
    return Hardware("cpu", platform.processor() or platform.machine(), None, ram, cores, banner)
