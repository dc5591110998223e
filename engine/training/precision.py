"""Loss scaling for fp16."""

from __future__ import annotations

from typing import Any


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
