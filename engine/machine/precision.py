"""Number formats by the names that settings use, and which of them a device can compute in."""

from __future__ import annotations

import torch

from engine.machine.device import has_bf16, is_card

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""From the finest to the coarsest."""


def usable_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """The wanted precision, or the nearest one that is usable on the device with a sentence that says why."""
    if is_card(device):
        if wanted == "bf16" and not has_bf16(device):
            return "fp16", "This card has no bf16; the run uses fp16."
        return wanted, ""
    if wanted == "fp16":
        return "fp32", "On a processor fp16 is slower than fp32; the run uses fp32."
    return wanted, ""
