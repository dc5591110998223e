"""The graphics cards of this machine, and which of them this process uses. torch is loaded only to use one.

CUDA counts the cards by their speed unless it is told otherwise, and nvidia-smi by their place in the computer. So that
the card which is described, and for which presets are suggested, is the one that computes, CUDA is told to count like
nvidia-smi; and where there are several cards, all but one are hidden from this process (`use_one`). Whatever it loads
or starts then uses that one: torch, the libraries beside it, and child processes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.machine.capabilities import is_cpu_build
from engine.machine.units import GIB, MIB, format_memory

ORDER, VISIBLE = "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"  # CUDA C++ Programming Guide, "CUDA Environment Variables"
HIP_VISIBLE = "HIP_VISIBLE_DEVICES"
"""With a ROCm build: if it is set, the user has chosen a card already."""
NONE = "-1"
"""Hides all cards: CUDA and HIP read a list of cards up to the first number that is not there."""
PART = "MIG-"
"""Begins the name of a part of a card, which CUDA_VISIBLE_DEVICES may hold. It counts as chosen, too."""
SMI_SECONDS, TORCH_SECONDS = 10, 60
AFFINITY = "ZE_AFFINITY_MASK"
"""What CUDA_VISIBLE_DEVICES is for Intel's cards (Level Zero, "Environment Variables"). "0.1" is a part of a card."""


@dataclass(frozen=True)
class Card:
    """One graphics card."""

    number: int
    """As nvidia-smi counts, from 0: by the place in the computer."""
    name: str
    memory_gib: float
    mark: str
    """Stays the same when cards are moved or added: its UUID."""
    kind: str = "cuda"
    """torch's type of device: "cuda" (AMD's, too), "xpu" (Intel's) or "mps" (Apple's)."""
    shared: bool = False
    """It is the graphics part of a processor, whose memory is the computer's."""

    @property
    def title(self) -> str:
        return f"{self.name}, {format_memory(self.memory_gib)}"


def _nvidia_smi() -> str | None:
    for place in (shutil.which("nvidia-smi"), r"C:\Windows\System32\nvidia-smi.exe", "/usr/lib/wsl/lib/nvidia-smi"):
        if place and Path(place).exists():
            return place
    return None


def ask_nvidia_smi() -> str:
    """One line for each card that NVIDIA's driver reports: number, UUID, name, MiB. Empty if it reports none."""
    program = _nvidia_smi()
    if program is None:
        return ""
    command = [program, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=SMI_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""  # a card whose driver does not answer cannot be used


def ask_torch(hidden: bool) -> str:
    """Ask torch, in another process, which cards it finds. Returns JSON after some seconds; empty if that failed.

    Args:
        hidden: leave out what CUDA_VISIBLE_DEVICES (ZE_AFFINITY_MASK) hides.
    """
    environment = {**os.environ, ORDER: "PCI_BUS_ID"}
    if not hidden:
        environment.pop(hiding(), None)
    command = [sys.executable, "-P", str(Path(__file__).with_name("device.py"))]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TORCH_SECONDS, check=True, env=environment
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def reported() -> tuple[Card, ...]:
    """All NVIDIA cards that the driver reports, whatever torch can use."""
    found = []
    for line in ask_nvidia_smi().splitlines():
        try:
            number, mark, *name, size = (part.strip() for part in line.split(","))
            found.append(Card(int(number), ",".join(name), float(size) * MIB / GIB, mark))
        except ValueError:
            return ()  # "[N/A]", or another program's output
    return tuple(found)


def _rows(hidden: bool) -> list[Any]:
    """The answer of ``ask_torch``: one entry for each card, as ``device.cards`` gives them."""
    try:
        return list(json.loads(ask_torch(hidden)))
    except ValueError:
        return []


@cache
def seen_by_torch(hidden: bool) -> tuple[Card, ...]:
    """The cards where nvidia-smi says nothing: AMD's, Intel's and Apple's, and NVIDIA's without that program."""
    found = []
    for number, row in enumerate(_rows(hidden)):
        if row is not None:  # torch has no kernels for it
            mark, name, size, kind, shared = row
            found.append(Card(number, name, size / GIB, mark, kind, shared))
    return tuple(found)


def hiding() -> str:
    """The variable that hides cards from the installed torch."""
    return AFFINITY if "+xpu" in metadata.version("torch") else VISIBLE


def is_part(allowed: str) -> bool:
    """Whether a value of ``hiding()`` names a part of a card."""
    return PART in allowed if hiding() == VISIBLE else "." in allowed


def uses_nvidia(build: str) -> bool:
    """Whether a version of torch is one for NVIDIA's cards: those of other makers do not use what nvidia-smi lists."""
    return "+rocm" not in build and "+xpu" not in build


def visible() -> tuple[Card, ...]:
    """The cards that torch can use in this process, in its order: it computes on the first. Empty: a processor."""
    build = metadata.version("torch")
    if is_cpu_build(build, platform.system()):
        return ()
    allowed = os.environ.get(hiding())
    if allowed == "" and hiding() == VISIBLE:
        return ()
    if allowed and is_part(allowed):
        return seen_by_torch(hidden=True)  # nvidia-smi tells the size of the whole card only
    cards = (reported() if uses_nvidia(build) else ()) or seen_by_torch(hidden=False)
    return _named(allowed, cards) if allowed else cards


def _named(allowed: str, cards: tuple[Card, ...]) -> tuple[Card, ...]:
    """The cards that CUDA_VISIBLE_DEVICES names, up to the first that is not there, as CUDA reads it."""
    found: list[Card] = []
    for name in (part.strip() for part in allowed.split(",")):
        card = next(
            (c for c in cards if (name == str(c.number) if name.isdigit() else name and c.mark.startswith(name))), None
        )
        if card is None or card in found:
            break
        found.append(card)
    return tuple(found)


hidden_from: list[tuple[Card, ...]] = []
"""What was visible before ``use_one``."""


def usable() -> tuple[Card, ...]:
    """The cards among which ``use_one`` chooses. Several processes can share them (docs/several-cards.md)."""
    return hidden_from[0] if hidden_from else visible()


def count_like_nvidia_smi() -> None:
    """Make CUDA number the cards as nvidia-smi does. Call it before torch is imported."""
    os.environ[ORDER] = "PCI_BUS_ID"


def use_one(number: int | None = None, mark: str = "") -> Card | None:
    """Hide all cards but one from this process and its children. Call it before torch is imported.

    Args:
        number: of the card, as nvidia-smi counts. None: the card with ``mark``; if that is not there, the one with the
            most memory, of several the first. A card comes before the graphics part of a processor, which may report
            more memory, since it is the computer's.

    Returns:
        The card; None if there is none that can be used.

    Raises:
        UserError: there is no card of that number.
    """
    count_like_nvidia_smi()
    cards = usable()
    if number is not None and number not in {card.number for card in cards}:
        listed = "; ".join(f"{card.number}: {card.title}" for card in cards)
        raise UserError(
            f"Graphics card {number} cannot be used.",
            f"Available cards: {listed or 'none'}.",
            "Give --card one of these numbers, or leave it out." if cards else "Leave --card out.",
        )
    if not cards:
        if not uses_nvidia(metadata.version("torch")) and hiding() not in os.environ and _rows(hidden=False):
            os.environ[hiding()] = NONE  # torch finds some, but has no kernels for them
        return None
    wanted = [card for card in cards if card.number == number or (number is None and mark and card.mark == mark)]
    card = wanted[0] if wanted else max(cards, key=lambda c: (not c.shared, c.memory_gib))
    hides = len(cards) > 1 or card.number > 0  # the first may be one that torch has no kernels for
    if hides and HIP_VISIBLE not in os.environ and not is_part(os.environ.get(hiding(), "")):
        hidden_from[:] = [cards]
        os.environ[hiding()] = str(card.number)
    return card
