"""The device that computes, behind one interface: NVIDIA's, AMD's, Intel's or Apple's card, or the processor.

All that differs between them is here and in ``capabilities.py``: no other module names ``torch.cuda``, ``torch.xpu`` or
``torch.mps`` (tests/test_import_rules.py). torch calls AMD's cards "cuda", too. What every kind has goes through
``torch.accelerator``; for a processor each function does nothing, or returns None.

Run as a program (``python device.py``) it prints the cards as JSON, for ``cards.ask_torch``. So it imports nothing of
the engine at its top.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

APPLE = "mps"
"""torch has neither counters nor several devices of this type, so it is asked in other ways."""
PROCESSOR = torch.device("cpu")
TORCHAX = "jax"
"""torchax registers itself with torch as a card of this type, which is none (engine/training/jax_backend.py)."""


def torch_device() -> torch.device:
    """The device that this process computes on: its graphics card, if torch can use it, else the processor."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return PROCESSOR if found is None or found.type == TORCHAX else found


def is_card(device: torch.device) -> bool:
    """Whether a device is a graphics card: it has its own memory (or its own share) and computes asynchronously."""
    return device.type not in ("cpu", "meta")


def card_count() -> int:
    """How many cards torch can use in this process."""
    return torch.accelerator.device_count() if is_card(torch_device()) else 0


def card_name(device: torch.device) -> str:
    """The name of a card as its driver reports it; of an Apple processor the processor's."""
    if device.type == APPLE:
        return apple_name()
    return str(torch.get_device_module(device.type).get_device_name(device))


def cards() -> list[tuple[str, str, float, str, bool] | None]:
    """All cards, in torch's order; None for one that this torch has no kernels for.

    Each is a mark that stays the same (a UUID, or ""), the name, the bytes of memory, torch's type, and whether it is
    the graphics part of a processor, whose memory is the computer's.
    """
    device = torch_device()
    if not is_card(device):
        return []
    if device.type == APPLE:
        return [("", apple_name(), float(torch.mps.recommended_max_memory()), APPLE, True)]
    module = torch.get_device_module(device.type)
    return [_described(module.get_device_properties(number), device.type) for number in range(card_count())]


def _described(card: Any, kind: str) -> tuple[str, str, float, str, bool] | None:
    """One entry of ``cards``. ``card``: its properties as torch gives them."""
    architecture = str(getattr(card, "gcnArchName", "")).split(":")[0]  # AMD's, such as "gfx90a:sramecc+:xnack-"
    known = torch.cuda.get_arch_list() if torch.version.hip else []
    if known and architecture not in known:
        return None
    shared = bool(getattr(card, "is_integrated", False) or getattr(card, "is_integrated_gpu", False))
    return str(getattr(card, "uuid", "")), str(card.name), float(card.total_memory), kind, shared


def apple_name() -> str:
    """The name of this Mac's processor."""
    import subprocess

    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "Apple graphics processor"


# Memory.


def empty_cache() -> None:
    """Release the memory that torch keeps on the card for later. Does nothing without a card."""
    if torch_device().type == APPLE:
        torch.mps.empty_cache()
    elif is_card(torch_device()):
        torch.accelerator.empty_cache()


def free_and_total(device: torch.device | None = None) -> tuple[int, int]:
    """Bytes that are free on a card, for all programs, and all that it has.

    Intel's graphics parts do not say what is free (pytorch issue 194576): there it is what this process does not hold.

    Args:
        device: default: the card that this thread uses.

    Raises:
        RuntimeError: the card does not answer.
    """
    if (device or torch_device()).type == APPLE:
        total = int(torch.mps.recommended_max_memory())
        return max(0, total - int(torch.mps.driver_allocated_memory())), total
    try:
        free, total = torch.accelerator.get_memory_info(device)
    except RuntimeError as error:
        if "free memory" not in str(error) and "free_memory" not in str(error):
            raise
        card = device or torch_device()
        total = torch.get_device_module(card.type).get_device_properties(card).total_memory
        free = max(0, total - reserved_bytes(card))
    return int(free), int(total)


def reserved_bytes(device: torch.device) -> int:
    """Bytes of a card that torch holds in this process, with what it keeps for later."""
    if device.type == APPLE:
        return int(torch.mps.driver_allocated_memory())
    return int(torch.accelerator.memory_reserved(device))


def peak_bytes(device: torch.device) -> int:
    """The most that ``reserved_bytes`` has been since ``reset_peak``. Apple's keep no peak: what is held now."""
    if device.type == APPLE:
        return int(torch.mps.driver_allocated_memory())
    return int(torch.accelerator.max_memory_reserved(device))


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak again."""
    if device.type != APPLE:
        torch.accelerator.reset_peak_memory_stats(device)


def memory_limit(device: torch.device) -> float:
    """Bytes of a card that torch's allocator may hold in this process: all, unless ``limit_memory`` set less."""
    total = free_and_total(device)[1]
    if device.type != "cuda":
        return float(total)
    return float(torch.cuda.get_per_process_memory_fraction(device) * total)


def limit_memory(device: torch.device, share: float) -> None:
    """Let torch's allocator hold at most this share of a card's memory. It needs the capability memory_limit."""
    torch.cuda.set_per_process_memory_fraction(share, device)


# Order of the work.


def wait_for(device: torch.device) -> None:
    """Wait until the card has done what this thread has asked it to do. Does nothing for a processor."""
    if device.type == APPLE:
        torch.mps.synchronize()
    elif is_card(device):
        torch.accelerator.current_stream(device).synchronize()


def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream beside the one that computes, for devices with the capability copy_streams."""
    return torch.cuda.Stream(device)


def current_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that computes, for devices with the capability copy_streams."""
    return torch.cuda.current_stream(device)


@contextmanager
def on_stream(stream: torch.cuda.Stream) -> Iterator[None]:
    """Within the block the card's work goes to this stream."""
    with torch.cuda.stream(stream):
        yield


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore the states of the processor's and the device's random numbers after the block."""
    if device.type == APPLE:  # fork_rng asks for the states of several devices
        before = torch.mps.get_rng_state()
        try:
            with torch.random.fork_rng(devices=[]):
                yield
        finally:
            torch.mps.set_rng_state(before)
        return
    kept = [device] if is_card(device) else []
    with torch.random.fork_rng(devices=kept, device_type=device.type if kept else "cuda"):
        yield


# Number formats and settings.


def has_bf16(device: torch.device) -> bool:
    """Whether a card computes in bf16 itself."""
    if device.type == "cuda":
        # In every thread but the first one torch would look at the first of several cards.
        with torch.cuda.device(device) if device.index is not None else nullcontext():
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "xpu":
        return bool(torch.xpu.is_bf16_supported())
    try:
        return bool((torch.ones(1, dtype=torch.bfloat16, device=device) + 1).item() == 2)
    except (RuntimeError, TypeError):  # macOS before 14 has none
        return False


def in_fp64(numbers: torch.Tensor) -> torch.Tensor:
    """The numbers in double precision: on their device, or on the processor if the device may have none.

    Every other module that needs double precision gets it here (tests/test_import_rules.py).
    """
    from engine.machine.capabilities import capabilities

    there = numbers.device.type == TORCHAX or capabilities(numbers.device.type).fp64
    return numbers.double() if there else numbers.cpu().double()


def compute_capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of an NVIDIA card, such as (8, 6)."""
    return torch.cuda.get_device_capability(device)


def matmul_settings() -> Any:
    """torch's settings of matrix products on cards: ``allow_tf32`` and ``allow_fp16_accumulation``."""
    return torch.backends.cuda.matmul


def collective_backend(device: torch.device) -> str:
    """torch.distributed's backends for a card's tensors and for status messages, which are on the processor.

    gloo for both where the card's own library is not there, as NCCL on Windows.
    """
    if device.type == "cuda" and torch.distributed.is_nccl_available():
        return "cuda:nccl,cpu:gloo"
    if device.type == "xpu" and torch.distributed.is_xccl_available():
        return "xpu:xccl,cpu:gloo"
    return "gloo"


if __name__ == "__main__":
    print(json.dumps(cards()))
