"""Number formats by the names that settings use, and which of them a device can compute in."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""From the finest to the coarsest."""


def usable_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """The wanted precision, or the nearest one that is usable on the device with a sentence that says why."""
    if device.type == "cuda":
        if wanted == "bf16":
            with torch.cuda.device(device):  # else torch looks at the first card in every thread but the first
                if not torch.cuda.is_bf16_supported(including_emulation=False):
                    return "fp16", "This card has no bf16; the run uses fp16."
        return wanted, ""
    if wanted == "fp16":
        return "fp32", "A processor computes fp16 slower than fp32; the run uses fp32."
    return wanted, ""
