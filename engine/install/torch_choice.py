"""Chooses the build of PyTorch for the graphics card.

Architectures: the CUDA support matrix in PyTorch's RELEASE.md (the same for 2.12, 2.13 and 2.14): the 12.6 build holds
compute capability 5.0 to 9.0, the 13.0 build 7.5 and up. 12.8 is no longer published since 2.12.
Cards of AMD and Intel: other_cards.py. Of several makers' cards one is used: a build of PyTorch is for one maker. An
NVIDIA card comes first, unless no build holds it.
Drivers: NVIDIA's CUDA release notes: 13.x needs 580; 12.x runs on 525.60 (Linux) or 528.33 (Windows) and newer.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from engine.install.hardware import Gpu, GpuReport
from engine.install.other_cards import OtherCard

TORCH = "2.13.0"
INDEX = "https://download.pytorch.org/whl/"
REPORTS_CAPABILITY = (510,)
"""The first driver whose nvidia-smi knows compute_cap."""
MAKERS = {"nvidia": "cu", "amd": "rocm", "intel": "xpu"}
"""The values of --maker, and how the names of that maker's builds begin."""


@dataclass(frozen=True)
class Build:
    """A CUDA build of PyTorch, and the cards and drivers that it runs on (bounds included)."""

    name: str
    lowest: tuple[int, int]
    highest: tuple[int, int]
    driver_linux: tuple[int, ...]
    driver_windows: tuple[int, ...]

    def holds(self, gpu: Gpu) -> bool:
        """Whether it was compiled for the card."""
        return gpu.capability is not None and self.lowest <= gpu.capability <= self.highest

    def driver_for(self, system: str) -> tuple[int, ...]:
        """The oldest driver that will do, e.g. (580, 65). ``system``: as in sys.platform."""
        return self.driver_windows if system == "win32" else self.driver_linux

    def runs_on(self, gpu: Gpu, system: str) -> bool:
        """Whether it was compiled for the card and the card's driver is new enough."""
        return self.holds(gpu) and gpu.driver >= self.driver_for(system)


# Newest first: the first one that runs on the card is taken.
BUILDS = (
    Build("cu130", (7, 5), (99, 0), (580, 65), (580,)),
    Build("cu126", (5, 0), (9, 0), (525, 60), (528, 33)),
)


@dataclass(frozen=True)
class Choice:
    """The torch build to install: its name ("cpu", "cu126", "cu130", "rocm7.2", "xpu"), why, and warnings to show."""

    build: str
    reason: str
    warnings: tuple[str, ...] = ()
    gpu: Gpu | None = None
    forced: bool = False
    maker: str = ""
    """The value of --maker; "" if it was not given."""

    @property
    def wanted(self) -> str:
        """The exact version, e.g. "2.13.0+cu130"."""
        return f"{TORCH}+{self.build}"

    @property
    def index(self) -> str:
        return INDEX + self.build


def choose(report: GpuReport, force_cpu: bool = False, system: str = sys.platform, maker: str = "") -> Choice:
    """The build for this machine.

    Args:
        maker: use the cards of this one only ("nvidia", "amd" or "intel"); "": the rule above decides.
    """
    if force_cpu:
        return Choice("cpu", "chosen with --cpu", forced=True)
    report = report.only(maker)
    others = [card for card in report.others if card.build]
    too_old = not any(gpu.capability is None or build.holds(gpu) for gpu in report.gpus for build in BUILDS)
    choice = _for_nvidia(report, system) if report.gpus and not (too_old and others) else _for_another_maker(report)
    sentence = _which_maker(report, choice, others, system)
    return replace(choice, warnings=(sentence, *choice.warnings) if sentence else choice.warnings, maker=maker)


def _for_another_maker(report: GpuReport) -> Choice:
    """The build for the best card of another maker."""
    remedy = "Restart the computer; if that does not help, install the newest driver from nvidia.com/drivers."
    warning = f"An NVIDIA driver seems to be installed, but {report.problem}. {remedy}" if report.problem else ""
    noted = (warning,) if warning else ()
    first = report.others[0] if report.others else None
    if first is not None and first.build:
        untried = (
            f"{first.label}: a build of PyTorch for {first.maker} cards is installed. The app was never run on "
            "one. Please report how it goes, with the output of --doctor; --cpu uses the processor instead."
        )
        return Choice(first.build, first.label, (*noted, untried))
    unused = tuple(f"{card.label} will not be used: {card.why_not}." for card in report.others)
    banner = "No card that can be used was found: training will run on the processor, many times slower."
    return Choice("cpu", "no card that can be used", (*noted, *unused, banner))


def _for_nvidia(report: GpuReport, system: str) -> Choice:
    """A build that runs on all NVIDIA cards, else the best one for the card with the most memory."""
    for build in BUILDS:
        if all(build.runs_on(gpu, system) for gpu in report.gpus):
            best = max(report.gpus, key=lambda gpu: gpu.memory_mib)
            return Choice(build.name, best.label, gpu=best)
    for gpu in sorted(report.gpus, key=lambda gpu: -gpu.memory_mib):
        for build in BUILDS:
            if build.runs_on(gpu, system):
                left = [other for other in report.gpus if not build.runs_on(other, system)]
                warnings = tuple(f"{other.name} will not be used: {_why_not(other, system)}" for other in left)
                return Choice(build.name, gpu.label, warnings, gpu)
    reasons = [f"{gpu.name}: {_why_not(gpu, system)}" for gpu in report.gpus]
    banner = "Until that is solved, training will run on the processor, many times slower."
    return Choice("cpu", "the card cannot be used yet", (*reasons, banner))


def _which_maker(report: GpuReport, choice: Choice, others: list[OtherCard], system: str) -> str:
    """Which of several makers' cards is used, why, and how to use another; "" if there is no choice."""
    start = "install.bat" if system == "win32" else "./install.sh"

    def instead(card: OtherCard) -> str:
        return f"To use {card.label} instead, start {start} --maker {card.maker.lower()}."

    if not others:
        return ""
    if choice.gpu:
        return f"{choice.gpu.name} is used, because everything in the app runs on NVIDIA cards. {instead(others[0])}"
    if report.gpus and choice.build == "cpu":  # its driver is too old
        return f"The NVIDIA card comes first, but cannot be used yet. {instead(others[0])}"
    used = others[0]
    if report.gpus:
        return f"{used.label} is used, because PyTorch {TORCH} does not support {report.gpus[0].name} any more."
    rivals = [card for card in others if card.maker != used.maker]
    if not rivals:
        return ""
    return f"{used.label} is used, because it reports the most memory. {instead(rivals[0])}"


def fits(installed: str, choice: Choice, system: str = sys.platform) -> bool:
    """Whether the installed build ("" = none) can stay, given what would be chosen now."""
    if installed == choice.build:
        return True
    if choice.build == "cpu":
        # The card is missing at the moment (external card, driver update): another build runs without it, too.
        return installed not in ("", "cpu") and not choice.forced
    return any(b.name == installed and choice.gpu and b.runs_on(choice.gpu, system) for b in BUILDS)


def _why_not(gpu: Gpu, system: str) -> str:
    """Why no build runs on the card, and what to do about it."""
    if gpu.capability is None and gpu.driver >= REPORTS_CAPABILITY:
        return "its driver does not report its compute capability. Install the newest one from nvidia.com/drivers."
    if gpu.capability is None:
        return f"its driver {_dotted(gpu.driver)} is too old. Install the newest driver for it from nvidia.com/drivers."
    holding = [build for build in BUILDS if build.holds(gpu)]
    if any(build.runs_on(gpu, system) for build in holding):
        return "no single build of PyTorch supports all cards of this computer."
    if not holding:
        return (
            f"PyTorch {TORCH} no longer supports a card this old (compute capability {_dotted(gpu.capability)}). Use "
            "another card, from the GTX 900 series on, or train on a rented computer."
        )
    needed = min(build.driver_for(system) for build in holding)
    return (
        f"its driver {_dotted(gpu.driver)} is too old; {_dotted(needed)} or newer is needed. Install the newest "
        "driver for it from nvidia.com/drivers and start this again."
    )


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
