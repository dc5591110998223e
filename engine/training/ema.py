"""Using the averaged weights for a while. The averaging itself is diffusers' EMAModel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def averaged_weights(ema: Any, model: torch.nn.Module) -> Iterator[None]:
    """Within the block ``model`` has the averaged weights; afterwards its own, bit for bit."""
    parameters = list(model.parameters())
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)
