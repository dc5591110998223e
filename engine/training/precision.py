"""What the numbers of a run are kept in, and what half precision needs besides."""

from __future__ import annotations

from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def usable_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """What this machine can do of the wanted precision, and a sentence where it is not the same."""
    if device.type == "cuda":
        if wanted == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return "fp16", "This card has no bf16; the run uses fp16."
        return wanted, ""
    if wanted == "fp16":
        return "fp32", "A processor computes fp16 slower than fp32; the run uses fp32."
    return wanted, ""


class LossScale:
    """What the loss is multiplied by, so that small gradients do not vanish in fp16 (Micikevicius et al. 2017, 3.2).

    At the first steps of a ControlNet most are far below what fp16 can hold. Halved when a step overflows, doubled
    after GROW_AFTER steps that did not; a power of two, so that dividing by it is exact. 1 and fixed for other types.
    """

    START, GROW_AFTER = 2.0**16, 2000

    def __init__(self, precision: str) -> None:
        self.moves = precision == "fp16"
        self.value = self.START if self.moves else 1.0
        self._good = 0

    def overflowed(self) -> None:
        """The step was skipped."""
        self._good = 0
        if self.moves:
            self.value /= 2

    def held(self) -> None:
        """The step was taken."""
        self._good += 1
        if self.moves and self._good == self.GROW_AFTER:
            self.value, self._good = self.value * 2, 0

    def state_dict(self) -> dict[str, Any] | None:
        """Under the names of torch's GradScaler, which wrote them before; None where there is nothing to keep."""
        return {"scale": self.value, "_growth_tracker": self._good} if self.moves else None

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if self.moves and state:
            self.value, self._good = float(state["scale"]), int(state["_growth_tracker"])
