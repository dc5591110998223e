"""Where the result of a transfer (transfer_job.py) is, and what it says. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.machine.units import counted

JSON = "transfer.json"
SHOWN = 0.005
"""A smaller difference of adherence is shown as 0.00."""


def transfer_folder(run_folder: Path, step: int) -> Path:
    """The folder that ``measure_transfer`` writes to."""
    return run_folder / "evaluation" / f"transfer-{step:06d}"


def transfer_text(found: dict[str, Any]) -> str:
    """The result of ``measure_transfer`` in a sentence or two."""
    names = ", ".join(Path(one).name for one in found["files"])
    own, other, change = found["own"], found["other"], found["change"]
    if own is None or other is None or change is None:
        return f"Drawn with {names}. Adherence cannot be measured for these control images; compare them by eye."
    figures = f"Adherence {own['value']:.2f} on its own base, {other['value']:.2f} with {names}"
    interval = f"difference {change['value']:+z.2f}, 95 % interval {change['low']:+z.2f} to {change['high']:+z.2f}"
    if change["low"] <= 0 <= change["high"] or abs(change["value"]) < SHOWN:
        text = "It obeys as well with it."
    else:
        text = "It obeys even better with it." if change["low"] > 0 else "It obeys less with it."
    return f"{text} {figures} ({interval}, {counted(found['pairs'], 'pair')})."
