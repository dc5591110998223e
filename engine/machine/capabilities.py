"""What only some makers' cards can do: the speed-ups and the packages that are offered to a run. No torch.

A card whose maker is not in the table is given what every device of torch can do, so that it may be slow but not wrong.
What was never run on a maker's cards is switched on only where the package's or torch's own documentation names them.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

Maker = Literal["nvidia", "amd", "intel", "apple", "processor", "other"]
MAKERS: dict[str, Maker] = {"xpu": "intel", "mps": "apple", "cpu": "processor"}
"""By torch's type of device. "cuda" is NVIDIA's, and AMD's in a ROCm build."""
TITLES: dict[Maker, str] = {
    "nvidia": "NVIDIA graphics cards",
    "amd": "AMD graphics cards",
    "intel": "Intel graphics cards",
    "apple": "Apple graphics processors",
    "processor": "processors",
    "other": "devices of this kind",
}


@dataclass(frozen=True)
class Capabilities:
    """What a device can do beside computing."""

    pinned_memory: bool = False
    """Copies from RAM that the processor does not wait for (page-locked memory)."""
    copy_streams: bool = False
    """Copies beside the computation, on a stream of their own."""
    memory_limit: bool = False
    """torch's allocator can be limited to a share of the card's memory."""
    graphs: bool = False
    """Recorded sequences of kernels (CUDA graphs)."""
    fused_adamw: bool = False
    """AdamW as one kernel (``torch.optim.AdamW(fused=True)``)."""
    tf32: bool = False
    """fp32 matmuls with 10 bits of mantissa, which deviate from those of a processor."""
    fp64: bool = False
    """Computes in double precision. Apple's have none, Intel's Arc A series neither (pytorch issue 147731)."""
    fp8: bool = False
    """Weights can be stored in float8 (e4m3)."""
    eight_bit_matmul: bool = False
    """Matmuls of int8 and fp8 tensors (``torch._int_mm``, ``torch._scaled_mm``)."""
    fp16_accumulation: bool = False
    """fp16 matmuls can accumulate in fp16."""
    bitsandbytes: bool = False
    """The package bitsandbytes has kernels for it: 8-bit optimizers, and weights in 4 bits."""
    paged_optimizers: bool = False
    """bitsandbytes' optimizers whose state moves between the card and RAM by itself (managed memory)."""
    xformers: bool = False
    """The package xformers has kernels for it."""


CAPABILITIES: dict[Maker, Capabilities] = {
    "nvidia": Capabilities(
        pinned_memory=True,
        copy_streams=True,
        memory_limit=True,
        graphs=True,
        fused_adamw=True,
        tf32=True,
        fp64=True,
        fp8=True,
        eight_bit_matmul=True,
        fp16_accumulation=True,
        bitsandbytes=True,
        paged_optimizers=True,
        xformers=True,
    ),
    # bitsandbytes from 0.49 brings libraries for ROCm and XPU in its Linux wheel; its paged optimizers are CUDA's.
    "amd": Capabilities(
        pinned_memory=True,
        copy_streams=True,
        memory_limit=True,
        graphs=True,
        fused_adamw=True,
        fp64=True,
        fp8=True,
        bitsandbytes=True,
    ),
    "intel": Capabilities(pinned_memory=True, fused_adamw=True, fp8=True, bitsandbytes=True),
    "apple": Capabilities(fused_adamw=True),
    "processor": Capabilities(fused_adamw=True, fp64=True, fp8=True, eight_bit_matmul=True, bitsandbytes=True),
    "other": Capabilities(),
}


def maker_of(device_type: str, build: str | None = None) -> Maker:
    """Who makes the devices of one of torch's types.

    Args:
        build: torch's version, such as "2.13.0+rocm7.2"; None: that of the installed one.
    """
    if device_type == "cuda":
        return "amd" if "+rocm" in (build or metadata.version("torch")) else "nvidia"
    return MAKERS.get(device_type, "other")


def capabilities(device_type: str) -> Capabilities:
    """What the devices of one of torch's types can do with the installed torch: "cuda", "xpu", "mps", "cpu", ..."""
    return CAPABILITIES[maker_of(device_type)]


def is_cpu_build(build: str, system: str) -> bool:
    """Whether a version of torch, such as "2.13.0+cpu", is a build that uses no card.

    Args:
        system: ``platform.system()``. A Mac's build has no mark; with Apple's own processor it uses the graphics part.
    """
    if system == "Darwin":
        return platform.machine() != "arm64"
    marked = any(mark in build for mark in ("+cu", "+rocm", "+xpu"))
    return "+cpu" in build or (system != "Linux" and not marked)
