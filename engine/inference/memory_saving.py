"""Drawing with less memory: smaller batches, the VAE in tiles, models moved to RAM between their turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.errors import UserError
from engine.machine.device import empty_cache, is_card

MAX_BATCH = 4
TILED, OFFLOADED = 1, 2


class MemorySaving:
    """How a session saves memory. Level 0: it does not. ``TILED``: one image at a time, decoded in tiles.
    ``OFFLOADED``: in addition each model waits in RAM until it is needed.

    Args:
        max_level: default: ``OFFLOADED`` on a graphics card; without one the models are in RAM already.
    """

    def __init__(self, device: torch.device, max_level: int | None = None) -> None:
        self._device = device
        self.max_level = max_level if max_level is not None else (OFFLOADED if is_card(device) else TILED)
        self.level = 0

    @property
    def batch_size(self) -> int:
        return 1 if self.level else MAX_BATCH

    @property
    def offload(self) -> bool:
        return self.level >= OFFLOADED

    def save_more(self) -> str:
        """Go up one level. Returns a sentence about it.

        Raises:
            UserError: this is the highest level.
        """
        if self.level >= self.max_level:
            raise UserError(
                "There is not enough memory for this image.",
                "It ran out even with the image decoded in tiles"
                + (" and the parts of the model loaded one after the other." if self.offload else "."),
                "Choose a smaller size, close other programs that use the graphics card, or pause the training.",
            )
        self.level += 1
        if self.level == TILED:
            return "Memory ran out, so the images were drawn one at a time and decoded in tiles."
        return (
            "Memory ran out, so the parts of the model were kept in the computer's memory until they were needed "
            "(slower)."
        )

    @contextmanager
    def on_device(self, *modules: Any) -> Iterator[None]:
        """Within the block these models are on the device. With offload they go back to RAM afterwards."""
        held = [module for module in modules if module is not None]
        if not self.offload:
            yield
            return
        for module in held:
            module.to(self._device)
        try:
            yield
        finally:
            for module in held:
                module.to("cpu")
            empty_cache()

    @contextmanager
    def tiled(self, vae: Any) -> Iterator[None]:
        """Within the block the VAE decodes large images in tiles, at any level above 0."""
        if not self.level:
            yield
            return
        vae.enable_tiling()
        try:
            yield
        finally:
            vae.disable_tiling()
