"""Counts the floating-point operations of a training step, and how many of them are the frozen base's linear layers.

    python -m benchmarks.flops                   (SD 1.5 and XL, presets of 12 and 16 GB)

Those layers are what ``train.base_products`` changes. Counted at the real shapes on a simulated card, without weights
(benchmarks/shapes.py), with torch's own counter: two operations for each multiplication and addition.
"""

from __future__ import annotations

import argparse
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.shapes import allocate_optimizer_state, build_state, settings
from benchmarks.simulated_card import CARD
from benchmarks.stand_ins import simulated_bases
from engine.families.files import LAYOUTS
from engine.families.registry import by_name
from engine.training.step import train_step

STEPS = (("16gb", "sd1"), ("12gb", "sd1"), ("12gb", "sdxl"))


def count(preset: str, family: str) -> dict[str, float]:
    """Operations of one step: all of them, and those of the base's linear layers in the forward and backward pass."""
    found = {"all": 0.0, "forward": 0.0, "backward": 0.0}

    def add(layer: Any, given: Any, output: Any) -> None:
        operations = 2.0 * output.numel() * layer.in_features
        found["forward"] += operations
        if output.requires_grad:  # the gradient of its input; a frozen weight has none
            found["backward"] += operations

    noise_process = by_name(family).noise_process(str(LAYOUTS / family))
    with simulated_bases(False):
        with CARD:
            state = build_state(settings(preset, family), family, noise_process)
        allocate_optimizer_state(state)
        for layer in state.denoiser.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(add)
        with FlopCounterMode(display=False) as counter:
            train_step(state)
    found["all"] = float(counter.get_total_flops())
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(
        "| preset | base | a step, TFLOP | linear layers of the base, forward | and backward |\n|---|---|---|---|---|"
    )
    for preset, family in STEPS:
        found = count(preset, family)
        shares = (f"{100 * found[part] / found['all']:.0f} %" for part in ("forward", "backward"))
        print(f"| {preset} | {family} | {found['all'] / 1e12:.1f} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
