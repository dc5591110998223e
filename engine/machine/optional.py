"""What the optional package bitsandbytes can do on this machine. It is not loaded here: that takes a second."""

from __future__ import annotations

import importlib.util
from importlib import metadata

from engine.machine.capabilities import TITLES, capabilities, maker_of


def has_processor_kernels() -> bool:
    """Whether bitsandbytes is installed, in a version that works without a graphics card."""
    try:
        major, minor, *_ = metadata.version("bitsandbytes").split(".")
        return (int(major), int(minor)) >= (0, 50)
    except (metadata.PackageNotFoundError, ValueError):
        return False


def why_no_four_bits(device: str) -> str:
    """Why a base cannot be kept in 4 bits here, with what to do; "" if it can.

    Args:
        device: torch's type of the device on which the base computes: "cuda", "xpu", "mps" or "cpu".
    """
    if not capabilities(device).bitsandbytes:
        return (
            f"A base in 4 bits (nf4) cannot be used on {TITLES[maker_of(device)]}: the package bitsandbytes does not "
            "support them. Set Base model precision to int8, which needs no package."
        )
    instead = "or set Base model precision to int8, which needs no package."
    if importlib.util.find_spec("bitsandbytes") is None:
        return (
            "A base in 4 bits (nf4) needs the package bitsandbytes, which is not installed: install it "
            f"(pip install bitsandbytes), {instead}"
        )
    if device == "cpu" and not has_processor_kernels():
        return (
            "Without a graphics card a base in 4 bits (nf4) needs bitsandbytes 0.50 or newer: install it "
            f"(pip install --upgrade bitsandbytes), {instead}"
        )
    return ""
