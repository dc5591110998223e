"""Number formats by the names that settings use, and which of them a device can compute in."""

from __future__ import annotations

from contextlib import nullcontext

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""From the finest to the coarsest."""


def usable_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """The wanted precision, or the nearest one that is usable on the device with a sentence that says why."""
    if device.type == "cuda":
        if wanted == "bf16":
            # In every thread but the first one torch would look at the first of several cards.
            with torch.cuda.device(device) if device.index is not None else nullcontext():
                if not torch.cuda.is_bf16_supported(including_emulation=False):
                    return "fp16", "This card has no bf16; the run uses fp16."
        return wanted, ""
    if wanted == "fp16":
        return "fp32", "On a processor fp16 is slower than fp32; the run uses fp32."
    return wanted, ""
