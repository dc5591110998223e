"""What an export loses by coarse rounding: its adherence beside the checkpoint's, on disk and as text. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.machine.units import counted

FILE = "measured_losses.json"


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class QuantizationLoss:
    """Adherence of a net as it would be written, and of its checkpoint, on the same held-out pairs and seeds."""

    checkpoint: str
    """Name of its folder."""
    weights: str
    precision: str
    whole: Interval
    """Adherence of the checkpoint."""
    written: Interval
    difference: Interval
    """The second minus the first, resampled pair by pair."""
    pairs: int

    @property
    def acceptable(self) -> bool:
        """Whether the adherence lies within the checkpoint's interval, or above it."""
        return self.written.value >= self.whole.low

    @property
    def text(self) -> str:
        return (
            f"Adherence in {self.precision} is {self.written.text}, that of the checkpoint {self.whole.text}: "
            f"difference {self.difference.value:+z.2f} ({self.difference.low:+z.2f} to {self.difference.high:+z.2f}), "
            f"{counted(self.pairs, 'held-out pair')}."
        )

    def require_acceptable(self) -> None:
        """Refuse a net that has lost too much.

        Raises:
            UserError: says how much.
        """
        if not self.acceptable:
            raise UserError(
                f"Nothing was exported in {self.precision}: the net would follow its control images less.",
                f"{self.text} It has to be {self.whole.low:.2f} or more.",
                "Export in fp16.",
            )


def read_losses(exports: Path) -> list[QuantizationLoss]:
    """The losses that were measured for a run's checkpoints; of one that was measured again, the last."""
    try:
        found = json.loads((exports / FILE).read_text(encoding="utf-8"))
        intervals = ("whole", "written", "difference")
        return [QuantizationLoss(**{**row, **{name: Interval(**row[name]) for name in intervals}}) for row in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def find_loss(exports: Path, checkpoint: str, weights: str, precision: str) -> QuantizationLoss | None:
    """The measured loss of a checkpoint; None: it has not been measured."""
    wanted = (checkpoint, weights, precision)
    return next((one for one in read_losses(exports) if (one.checkpoint, one.weights, one.precision) == wanted), None)


def keep_loss(exports: Path, loss: QuantizationLoss) -> None:
    """Write a measured loss into a run's exports folder, in place of an earlier one of the same checkpoint."""
    same = (loss.checkpoint, loss.weights, loss.precision)
    others = [one for one in read_losses(exports) if (one.checkpoint, one.weights, one.precision) != same]
    exports.mkdir(parents=True, exist_ok=True)
    atomic_write_text(exports / FILE, json.dumps([asdict(one) for one in (*others, loss)], indent=2))
