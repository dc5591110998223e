"""How the hint encoder of a new ControlNet starts: so that it sees the condition map from the first step.

The hint encoder is the only part that is not copied from the base. PyTorch's own initialisation of convolutions lets
what depends on the map shrink at each of its seven layers, while the random biases stay: at its end, on the demo's
outlines, images differ by a thousandth of what all of them have in common, and the net has to climb out of that
before it can listen. With He initialisation (He et al. 2015, arXiv 1502.01852) and biases of zero the map comes
through: the demo listens after about 100 steps in place of 150 to 400 (benchmarks/hint_start.py, docs/demo.md). The
last layer stays zero, as in the ControlNet paper (Zhang et al. 2023, arXiv 2302.05543): training starts from exactly
what the base draws.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def he_start(controlnet: Any) -> None:
    """Re-draws the hidden layers of ``controlnet_cond_embedding`` in place, from the global random state."""
    encoder = controlnet.controlnet_cond_embedding
    for layer in (encoder.conv_in, *encoder.blocks):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
