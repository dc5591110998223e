"""The hardware of this machine, found without loading torch."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

import psutil

from engine.machine.capabilities import Maker, is_cpu_build, maker_of
from engine.machine.cards import VISIBLE, reported, usable, uses_nvidia, visible
from engine.machine.units import format_memory


@dataclass(frozen=True)
class Hardware:
    """The hardware that a run can use."""

    device: str
    """torch's type: "cuda" (NVIDIA's cards, and AMD's), "xpu" (Intel's), "mps" (Apple's) or "cpu"."""
    name: str
    vram_gib: float | None
    """None without a usable graphics card."""
    ram_gib: float
    cores: int
    banner: str = ""
    """Why a run uses the processor although there is a graphics card; empty if it does not."""
    cards: int = 1
    """Usable graphics cards, 1 if there is none. ``name`` and ``vram_gib`` are those of the one that is used."""

    @property
    def maker(self) -> Maker:
        return maker_of(self.device)

    @property
    def sentence(self) -> str:
        if self.vram_gib is not None:
            others = f" (one of {self.cards} cards)" if self.cards > 1 else ""
            return f"{self.name}, {format_memory(self.vram_gib)}{others}"
        return f"no graphics card used; processor with {self.cores} cores, {format_memory(self.ram_gib)} memory"


@lru_cache(maxsize=1)
def detect() -> Hardware:
    """This machine, with the card that torch uses in this process (`engine.machine.cards.use_one`).

    Takes about a tenth of a second: the driver is asked. Only a machine whose torch can use cards, but whose driver
    lists none (AMD, Intel, Apple), takes some seconds: torch is asked in another process.
    """
    build = metadata.version("torch")
    ram, cores = psutil.virtual_memory().total / 2**30, os.cpu_count() or 1
    cards = visible()
    if cards:
        return Hardware(cards[0].kind, cards[0].name, cards[0].memory_gib, ram, cores, cards=len(usable()))
    banner = ""
    if found := reported():
        reason = f"this PyTorch ({build}) is a CPU-only build. Run the installer again with --repair."
        if not uses_nvidia(build):
            reason = (
                f"this PyTorch ({build}) is a build for another maker's cards, and finds none of them. Run the "
                "installer again with --repair."
            )
        elif not is_cpu_build(build, platform.system()):
            reason = f"{VISIBLE}={os.environ.get(VISIBLE)} hides it. Unset that variable and start the app again."
        banner = f"{found[0].name} was detected but is not used: {reason}"
    elif not uses_nvidia(build):
        banner = (
            f"This PyTorch ({build}) finds no card that it can use. Start the installer with --doctor, which says why; "
            "without such a card, with --repair."
        )
    return Hardware("cpu", platform.processor() or platform.machine(), None, ram, cores, banner)


def why_unused(device_type: str) -> str:
    """A sentence for a run whose card torch cannot use although it is there; empty for all others.

    Args:
        device_type: of the device that torch computes on.
    """
    hardware = detect()
    if device_type != "cpu" or hardware.device == "cpu":
        return ""
    return (
        f"PyTorch cannot use the {hardware.name}: the card or its driver may be too old. The run uses the "
        "processor, which is far slower. Install the newest driver, restart, and see Check the installation "
        "under Settings & help."
    )
