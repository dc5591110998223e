"""The loss scale of fp16, and the record of steps that a run skipped because something was not finite."""

from __future__ import annotations

from typing import Any

from engine.machine.units import counted, plural


class LossScale:
    """The factor on the loss that keeps small gradients from vanishing in fp16 (Micikevicius et al. 2017, 3.2).

    In the first steps of a ControlNet most gradients are far below what fp16 can hold. Where they overflow, the same
    batch is tried again at half the scale. A batch that overflows at every try is skipped, and its halvings are undone:
    one bad image must not leave a scale at which all gradients vanish. After enough good steps twice the scale is
    tried: soon while that is no larger than what held before (at first: than START), later above, or where it failed.
    The scale is a power of two, so dividing by it is exact. For bf16 and fp32 it stays 1, and only the record of
    skipped steps is kept.

    torch's GradScaler cannot promise that a skipped step is skipped in all processes, and it keeps every halving.
    """

    START = 2.0**16
    SMALLEST = 1.0
    TRIES = 3
    """Halvings for one batch. As long as no scale has held, there may be as many as it takes; and after batches that
    were skipped, three more for each, since the scale may be what is wrong."""
    RECOVER_AFTER, GROW_AFTER = 200, 2000
    """Good steps after which twice the scale is tried: below the ceiling, and above."""
    IN_A_ROW, IN_WINDOW, WINDOW = 5, 20, 100
    """A run ends after 5 skipped steps in a row, and after more than 20 of the last 100."""

    def __init__(self, precision: str) -> None:
        self.enabled = precision == "fp16"
        self.skipped_steps: list[int] = []
        """Numbers (from 1) of the skipped steps among the last WINDOW, in order."""
        self._scale = self.START if self.enabled else 1.0  # the one of the last good step, unless a batch is retried
        self._good = 0  # steps since it changed
        self._ceiling = self._scale  # the largest that held and has not failed since; START until one has failed
        self._any_held = False
        self._before: tuple[float, int, float] | None = None  # scale, good steps, ceiling before the batch overflowed
        self._halvings = 0  # for the present batch

    @property
    def value(self) -> float:
        """The factor for the next backward pass."""
        return self._scale * 2 if self._trying_twice else self._scale

    @property
    def _trying_twice(self) -> bool:
        after = self.RECOVER_AFTER if self._scale < self._ceiling else self.GROW_AFTER
        return self.enabled and self._good >= after

    # What a step reports, one of these each time.

    def held(self) -> None:
        """Record that the gradients were finite and the step was taken."""
        if self._trying_twice:
            self._scale, self._good = self.value, 0
        self._good += 1
        self._ceiling, self._any_held = max(self._ceiling, self._scale), True
        self._before, self._halvings = None, 0

    def overflowed(self, step: int) -> bool:
        """The loss is finite, but a gradient is not. Returns whether to try the batch again, at half the scale.

        Args:
            step: the step's number, from 1.
        """
        tries = self.TRIES * (1 + self._in_a_row(step - 1))
        if self.value <= self.SMALLEST or (self._any_held and self._halvings >= tries):
            return False
        if self._before is None:
            self._before = (self._scale, self._good, self._ceiling)
        if self._trying_twice:
            self._ceiling = self._scale
        else:
            self._scale /= 2
        self._good = 0
        self._halvings += 1
        return True

    def skipped(self, step: int) -> None:
        """Step ``step`` (from 1) was skipped: the scale is what it was before."""
        if self._before is not None:
            self._scale, self._good, self._ceiling = self._before
        self._before, self._halvings = None, 0
        self.skipped_steps = [one for one in self.skipped_steps if one > step - self.WINDOW] + [step]

    # Whether a run can go on.

    def too_many_skipped(self, step: int) -> str:
        """After step ``step``: why the run has to end, as a clause; empty if it can go on."""
        row = self._in_a_row(step)
        if row >= self.IN_A_ROW:
            return f"{counted(row, 'step')} in a row {plural(row, 'was', 'were')} skipped"
        recent = sum(step - self.WINDOW < one <= step for one in self.skipped_steps)
        return f"{recent} of the last {self.WINDOW} steps were skipped" if recent > self.IN_WINDOW else ""

    def last_good(self, step: int) -> int:
        """The last step up to ``step`` that was not skipped."""
        return step - self._in_a_row(step)

    def forget_skipped(self) -> None:
        """Reset the count of skipped steps: the run ends, and a resume begins with other settings."""
        self.skipped_steps = []

    def _in_a_row(self, step: int) -> int:
        """How many steps were skipped without one between, up to step ``step``."""
        row = 0
        while step - row in self.skipped_steps:
            row += 1
        return row

    # What a checkpoint keeps of it.

    def state_dict(self) -> dict[str, Any] | None:
        """Plain values; None if there is nothing to keep. The scale is one that held, also between two tries.

        ``scale`` and ``_growth_tracker`` are the names of torch's GradScaler, which wrote the first checkpoints.
        """
        record = {"skipped": self.skipped_steps} if self.skipped_steps else {}
        if not self.enabled:
            return record or None
        scale, good, ceiling = self._before or (self._scale, self._good, self._ceiling)
        return {"scale": scale, "_growth_tracker": good, "ceiling": ceiling, "any_held": self._any_held, **record}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore the state from a checkpoint. None changes nothing.

        Checkpoints of earlier versions may hold a scale that one bad batch has crushed (6e-5), and do not say which one
        held. So the search restarts at START, or above if the scale is: that costs a few tries of one batch.
        """
        if not state:
            return
        self.skipped_steps = list(state.get("skipped", []))
        if not self.enabled or "scale" not in state:
            return
        if "ceiling" in state:
            self._scale, self._good = float(state["scale"]), int(state["_growth_tracker"])
            self._ceiling, self._any_held = float(state["ceiling"]), bool(state["any_held"])
        else:
            self._scale = self._ceiling = max(self.START, float(state["scale"]))
