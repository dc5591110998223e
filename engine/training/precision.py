"""Loss scaling for fp16."""

from __future__ import annotations

from typing import Any


class LossScale:
    """The factor on the loss that keeps small gradients from vanishing in fp16 (Micikevicius et al. 2017, 3.2).

    In the first steps of a ControlNet most gradients are far below what fp16 can hold. Halved when a step overflows,
    doubled after GROW_AFTER steps in a row that did not. It is a power of two, so dividing by it is exact. For bf16 and
    fp32 it stays 1. torch's GradScaler cannot promise that a skipped step moves nothing on any process.
    """

    START, GROW_AFTER = 2.0**16, 2000

    def __init__(self, precision: str) -> None:
        self.moves = precision == "fp16"
        self.value = self.START if self.moves else 1.0
        self._good = 0
        self.skipped = 0
        """Steps in a row that were skipped."""

    def update(self, found_inf: bool) -> None:
        """Call after each step.

        Args:
            found_inf: a gradient was not finite, so the step was skipped.
        """
        if found_inf:
            self.skipped, self._good = self.skipped + 1, 0
            if self.moves:
                self.value /= 2
            return
        self.skipped, self._good = 0, self._good + 1
        if self.moves and self._good == self.GROW_AFTER:
            self.value, self._good = self.value * 2, 0

    def state_dict(self) -> dict[str, Any] | None:
        """Under the names of torch's GradScaler, which wrote earlier checkpoints; None if there is nothing to keep."""
        return {"scale": self.value, "_growth_tracker": self._good} if self.moves else None

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if self.moves and state:
            self.value, self._good = float(state["scale"]), int(state["_growth_tracker"])
