"""When a training step needs most memory, and how much: the sizes of layer_sizes.py, walked through in time.

Forward, what the backward pass will want piles up. Backward, it goes from the end, while gradients of the weights take
its place: the one is at its highest where the other is at its lowest, so their highest are never there together (but
where gradients of an earlier batch are there already). The moments that are looked at are those of the forward and of
the backward pass of each unit.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.estimate.layer_sizes import Net


@dataclass(frozen=True)
class Moment:
    """Bytes at the fullest moment of a step."""

    activations: float
    gradients: float


def fullest(net: Net, batch: int, wide: int, checkpointing: str, adds_up: bool, on_card: bool = True) -> Moment:
    """The fullest moment of forward and backward.

    Args:
        batch: images computed together.
        wide: bytes of a number that computes.
        checkpointing: "none", "controlnet" or "both".
        adds_up: several batches make a step, so all gradients are there from the second on.
        on_card: gradients, fp32, stay where the net computes.
    """
    control = [(unit, checkpointing != "none", False) for unit in net.controlnet.units]
    steps = control + [(unit, checkpointing == "both", True) for unit in net.unet.units]
    kept = [unit.entry if again else unit.inside for unit, again, _ in steps]
    whole = 4.0 * sum(unit.learning for unit, _, _ in steps) if on_card else 0.0
    found = [Moment(0.0, whole)]  # before the optimizer lets go of them
    below, done, coming = sum(kept), 0.0, 0
    for (unit, again, of_unet), own in zip(reversed(steps), reversed(kept), strict=True):
        gradients = whole if adds_up else done
        # Forward: what the net has written for the UNet, and the sums that are made of it, are held until its end.
        handed = 2 * net.residuals if of_unet else 0
        working = unit.working if again else 0
        found.append(Moment(float(batch * wide * (below + handed + working)), whole if adds_up else 0.0))
        # Backward: gradients of residuals wait from where the UNet read them until the net comes to where they were.
        coming += unit.skip if of_unet else 0
        inside = unit.inside - own if again else 0
        found.append(Moment(float(batch * wide * (below + inside + unit.passing + coming)), gradients))
        coming -= 0 if of_unet else min(coming, unit.skip)
        below -= own
        done += 4.0 * unit.learning if on_card else 0.0
    return max(found, key=lambda moment: moment.activations + moment.gradients)


def drawing(net: Net, images: int, wide: int) -> float:
    """Bytes at the fullest moment without gradients: the residuals three times, and the largest unit."""
    largest = max(unit.working + unit.entry for unit in (*net.controlnet.units, *net.unet.units))
    return float(images * wide * (3 * net.residuals + largest))
