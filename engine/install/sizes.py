"""How much an installation downloads.

Sizes of the wheels of PyTorch 2.13.0 for Python 3.12 with what they depend on, and of the packages of requirements.txt,
as the package indexes gave them in November 2026. ROCm: the wheel alone, of PyTorch 2.10.0 for ROCm 7.1. Intel, Linux:
the wheel of a nightly 2.11 (0.8 GB, intel/torch-xpu-ops issue 2745), Intel's libraries of its version 2025.1 (0.75 GB,
pytorch/test-infra pull request 6612), without triton; for Windows no list was found.
"""

from __future__ import annotations

import sys

from engine.install.torch_choice import Choice

PACKAGES = 0.3  # GB (10**9 bytes), without PyTorch
WINDOWS, LINUX, MAC = "win32", "linux", "darwin"
TORCH_GB = {
    (LINUX, "cpu"): 0.2,
    (LINUX, "cu130"): 2.7,
    (LINUX, "cu126"): 3.0,
    (WINDOWS, "cpu"): 0.1,
    (MAC, "cpu"): 0.1,
    (LINUX, "rocm7.2"): 5.1,
    (LINUX, "xpu"): 1.6,
    (WINDOWS, "cu130"): 1.9,
    (WINDOWS, "cu126"): 2.6,
}
"""PyTorch with its CUDA libraries, in GB (10**9 bytes), by system (as in sys.platform) and build."""
MEGABITS = 50  # a usual connection, per second


def download_sentence(choice: Choice, system: str = sys.platform) -> str:
    """What will be downloaded and how long that takes, before it begins."""
    torch = TORCH_GB.get((system, choice.build))
    if torch is None:
        return f"To download: PyTorch for {choice.build}, several GB, and {PACKAGES:.1f} GB of other packages."
    total = torch + PACKAGES
    minutes = max(1, round(total * 8000 / MEGABITS / 60))
    return (
        f"To download: about {total:.1f} GB (PyTorch {torch:.1f} GB, other packages {PACKAGES:.1f} GB), "
        f"{minutes} min at {MEGABITS} Mbit/s. It may be interrupted; the next start continues."
    )
