"""Detects cards of AMD, Intel and Apple, and names PyTorch's build for them. What does not answer is no card.

Linux: the kernel's files, without any package of the maker. AMD's compute driver (amdkfd) tells the architecture as a
number: 110000 is gfx1100, 90010 gfx90a. Windows: the display adapters that it lists, by their PCI numbers.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROCM, XPU = "rocm7.2", "xpu"
"""Folders of PyTorch's index that have builds of version 2.13.0 for AMD (Linux only) and Intel (Linux and Windows)."""
ARCHITECTURES = {
    *("gfx908", "gfx90a", "gfx942", "gfx950"),
    *("gfx1030", "gfx1100", "gfx1101", "gfx1102", "gfx1150", "gfx1151", "gfx1200", "gfx1201"),
}
"""What the ROCm build runs on: PYTORCH_ROCM_ARCH in PyTorch's .ci/docker/manywheel/build.sh, without those for which
the rocBLAS inside it has no kernels, so that the first matrix product ends the program: gfx900 and gfx906 (pytorch
issue 179865, ROCm/TheRock issue 1844), gfx1103 (ROCm/rocm-libraries issue 6320)."""
OVERRIDE = "HSA_OVERRIDE_GFX_VERSION"
"""The variable with which a person makes ROCm take the card for another one: "10.3.0" is gfx1030."""
LIKE_1030 = {f"gfx103{last}" for last in "123456"}
"""RX 6600 to 6750, the Steam Deck and the graphics parts of Ryzen 6000 and 7000."""
INTEL = ((0x5690, 0x56C1, "Arc A series"), (0xE200, 0xE2FF, "Arc B series"))
"""PCI numbers (first, last) of Intel's cards with memory of their own (Linux: include/drm/intel/pciids.h, DG2, BMG)."""
INTEL_PARTS = {
    **dict.fromkeys((0x7D40, 0x7D45, 0x7D55, 0x7D60, 0x7DD5), "Core Ultra 100 graphics"),
    **dict.fromkeys((0x7D41, 0x7D51, 0x7D67, 0x7DD1), "Core Ultra 200 graphics"),
    **dict.fromkeys((0x6420, 0x64A0, 0x64B0), "Core Ultra 200V graphics"),
}
"""Graphics parts of Intel's processors that the XPU build runs on (the same file: MTL, ARL, LNL)."""
AMD_VENDOR, INTEL_VENDOR = 0x1002, 0x8086
GROUPS = "sudo usermod -aG render,video $USER, then log out and in again"
KERNEL_FILES = Path("/sys")
ASK_WINDOWS = (
    "Get-CimInstance Win32_VideoController | Select-Object Name,PNPDeviceID,DriverVersion | ConvertTo-Json -Compress"
)


@dataclass(frozen=True)
class OtherCard:
    """A card that is not NVIDIA's."""

    maker: Literal["AMD", "Intel", "Apple"]
    name: str
    build: str
    """PyTorch's build for it; "": there is none, see ``why_not``."""
    driver: str = ""
    why_not: str = ""
    memory: int = 0
    """Bytes of its own memory; 0: not reported."""

    @property
    def label(self) -> str:
        memory = f", {self.memory / 2**30:.0f} GB" if self.memory else ""
        return f"{self.name}{memory}" + (f", driver {self.driver}" if self.driver else "")


def detect_others(system: str = sys.platform, timeout: float = 20.0) -> tuple[OtherCard, ...]:
    """The cards of other makers, the best first: those with a build, and of these the one with the most memory.

    Args:
        timeout: seconds after which a program that is asked counts as silent.
    """
    if system == "win32":
        found = from_windows(_ask_windows(timeout))
    elif system == "darwin":
        found = [OtherCard("Apple", _processor_name(), "cpu")] if platform.machine() == "arm64" else []
    else:
        found = [*amd_on_linux(KERNEL_FILES), *intel_on_linux(KERNEL_FILES)]
    return tuple(sorted(found, key=lambda card: (not card.build, -card.memory)))


def amd_on_linux(kernel: Path) -> list[OtherCard]:
    """AMD's cards as its compute driver lists them.

    Args:
        kernel: usually /sys.
    """
    found = []
    pretended = _overridden(os.environ.get(OVERRIDE, ""))
    for folder in sorted((kernel / "class/kfd/kfd/topology/nodes").glob("*")):
        properties = _properties(folder / "properties")
        version = properties.get("gfx_target_version", 0)
        if not version:
            continue  # a processor
        name = _architecture(version // 10_000, version // 100 % 100, version % 100)
        runs_as = pretended or name
        title = f"AMD {name}" + (f" (run as {runs_as})" if runs_as != name else "")
        banks = [_properties(path) for path in folder.glob("mem_banks/*/properties")]
        memory = sum(bank.get("size_in_bytes", 0) for bank in banks if bank.get("heap_type") in (1, 2))  # on the card
        if runs_as in ARCHITECTURES:
            found.append(OtherCard("AMD", title, ROCM, _amd_driver(kernel), memory=memory))
        else:
            why = f"PyTorch's ROCm build has no kernels for {runs_as}"
            if runs_as in LIKE_1030:
                why += f" (with the variable {OVERRIDE}=10.3.0 it is run as gfx1030, which AMD does not support)"
            found.append(OtherCard("AMD", title, "", _amd_driver(kernel), why, memory))
    if not found and any(vendor == AMD_VENDOR for vendor, _, _ in _display_adapters(kernel)):
        why = f"its compute driver (amdkfd, /dev/kfd) is not there. Install AMD's driver for ROCm 7; then {GROUPS}"
        found.append(OtherCard("AMD", "AMD graphics card", "", why_not=why))
    return found


def _architecture(major: int, minor: int, stepping: int) -> str:
    """LLVM's name of an architecture: (9, 0, 10) is gfx90a."""
    return f"gfx{major}{minor:x}{stepping:x}"


def _overridden(value: str) -> str:
    """The architecture that ``OVERRIDE`` names; "" for none."""
    parts = value.split(".")
    numbers = [int(part) for part in parts if part.isdecimal()]
    return _architecture(*numbers) if len(numbers) == len(parts) == 3 else ""


def intel_on_linux(kernel: Path) -> list[OtherCard]:
    """Intel's cards and graphics parts that the XPU build runs on. Nearly every computer has another one."""
    return [
        OtherCard("Intel", f"Intel {name}", XPU, driver)
        for vendor, device, driver in _display_adapters(kernel)
        if vendor == INTEL_VENDOR and (name := intel_name(device))
    ]


def intel_name(device: int) -> str:
    """The name of an Intel device that the XPU build runs on, by its PCI number; "" for all others."""
    cards = (name for first, last, name in INTEL if first <= device <= last)
    return next(cards, "") or INTEL_PARTS.get(device, "")


def from_windows(answer: str) -> list[OtherCard]:
    """The cards in the answer to ``ASK_WINDOWS``: JSON of one adapter, or of several."""
    try:
        rows = json.loads(answer)
    except ValueError:
        return []
    found = []
    for row in rows if isinstance(rows, list) else [rows]:
        if not isinstance(row, dict):
            continue
        place, name = str(row.get("PNPDeviceID") or "").upper(), str(row.get("Name") or "")
        driver = str(row.get("DriverVersion") or "")
        device = re.search(r"DEV_([0-9A-F]{4})", place)
        if "VEN_8086" in place and device and intel_name(int(device[1], 16)):
            found.append(OtherCard("Intel", name, XPU, driver))
        elif "VEN_1002" in place:
            why = "PyTorch publishes no ROCm build for Windows; on Linux there is one"
            found.append(OtherCard("AMD", name, "", driver, why))
    return found


def _ask_windows(timeout: float) -> str:
    command = ["powershell", "-NoProfile", "-NonInteractive", "-Command", ASK_WINDOWS]
    return output_of(command, timeout)


def _processor_name() -> str:
    return output_of(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]).strip() or "Apple processor"


def output_of(command: list[str], timeout: float = 20.0) -> str:
    """What a program prints; "" if it cannot be run, or does not end within ``timeout`` seconds."""
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _display_adapters(kernel: Path) -> Iterator[tuple[int, int, str]]:
    """Vendor, device and kernel driver of each display adapter."""
    for folder in sorted((kernel / "class/drm").glob("card[0-9]*")):
        if "-" in folder.name:
            continue  # a connector, such as card0-HDMI-A-1
        try:
            vendor, device = (int(_text(folder / "device" / name), 16) for name in ("vendor", "device"))
        except ValueError:
            continue  # no PCI device
        yield vendor, device, (folder / "device" / "driver").resolve().name


def _amd_driver(kernel: Path) -> str:
    return _text(kernel / "module/amdgpu/version") or f"of Linux {platform.release()}"


def _properties(path: Path) -> dict[str, int]:
    """Lines "name number" of a file; {} if it cannot be read."""
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
