"""Which weights learn."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def keep_only_middle(controlnet: Any) -> None:
    """Silence every way of the net into the base but that at its middle, for good: zero, and never learning.

    ``only_mid_control`` of the original code. As the silence is in the weights, the net draws alike wherever it goes.
    """
    for parameter in controlnet.controlnet_down_blocks.parameters():
        parameter.zero_()
        parameter.requires_grad_(False)
