"""The peak memory of a training step: the nets' sizes (engine/families/sizes.py) followed through time.

In the forward pass the activations that the backward pass needs pile up. In the backward pass they go, from the end,
while gradients of the weights take their place, so the two peaks never coincide (unless gradients of an earlier
micro-batch exist already). The candidates are the forward and the backward pass of each unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.families.sizes import Sizes


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak of a step."""

    activations: float
    gradients: float


def training_peak(
    sizes: Sizes,
    batch: int,
    bytes_each: int,
    checkpointed: tuple[bool, bool],
    accumulates: bool,
    on_card: bool = True,
    gradient_bytes: int = 4,
    most_gradients: float = math.inf,
) -> Peak:
    """The peak of forward and backward pass.

    Args:
        batch: images in a micro-batch.
        bytes_each: bytes of a number in the nets that compute.
        checkpointed: gradient checkpointing covers the control net, and the denoiser.
        accumulates: a step has several micro-batches, so all gradients exist from the second on.
        on_card: gradients stay where the nets compute.
        gradient_bytes: bytes of a gradient until the weights are updated.
        most_gradients: bytes of gradients, and of what an update takes, where they are used in the backward pass.
    """
    steps = [(unit, checkpointed[0], False) for unit in sizes.controlnet.units]
    steps += [(unit, checkpointed[1], True) for unit in sizes.denoiser.units]
    kept = [unit.checkpointed if again else unit.kept for unit, again, _ in steps]
    all_gradients = gradient_bytes * float(sum(unit.trained for unit, _, _ in steps)) if on_card else 0.0
    all_gradients = min(all_gradients, most_gradients)
    found = [Peak(0.0, all_gradients)]  # before the optimizer frees them
    below, done, waiting = sum(kept), 0.0, 0
    for (unit, again, of_denoiser), own in zip(reversed(steps), reversed(kept), strict=True):
        gradients = all_gradients if accumulates else done
        # Forward: the residuals, and the sums made of them, are held to the end of the denoiser.
        held = 2 * sizes.residuals if of_denoiser else 0
        working = unit.forward_peak if again else 0
        forward = batch * bytes_each * (below + held + working)
        found.append(Peak(float(forward), all_gradients if accumulates else 0.0))
        # Backward: gradients of residuals and skip connections wait from where they were read to where they were made.
        waiting += unit.reads
        inside = unit.kept - own if again else 0
        backward = batch * bytes_each * (below + inside + unit.backward_extra + waiting)
        found.append(Peak(float(backward), gradients))
        waiting -= min(waiting, unit.writes)
        below -= own
        done = min(done + (gradient_bytes * unit.trained if on_card else 0.0), all_gradients)
    return max(found, key=lambda peak: peak.activations + peak.gradients)


def sampling_peak(sizes: Sizes, images: int, bytes_each: int) -> float:
    """Bytes at the peak without gradients: the residuals three times, and the largest unit."""
    units = (*sizes.controlnet.units, *sizes.denoiser.units)
    return float(images * bytes_each * (3 * sizes.residuals + max(u.forward_peak + u.checkpointed for u in units)))
