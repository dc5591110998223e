"""VAEs that do not fit into memory with a whole image encode and decode it in tiles.

A tile's norms see that tile alone, so colours may differ a little between tiles: the largest tiles that fit are taken.
Neighbours overlap by a quarter and are blended there (diffusers' ``AutoencoderKL``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from engine.machine.memory import free_memory, none_if_out_of_memory

SIDES = (1024, 512)
"""Sides of the tiles in pixels, in the order in which they are tried."""


def whole_or_in_tiles(vae: Any, side: int, factor: int, work: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return ``work()``, which encodes or decodes with ``vae``; where memory runs out, again with smaller tiles.

    Tiles stay on for what follows with this VAE: see ``in_tiles`` and ``vae.disable_tiling``.

    Args:
        side: the longer one of the image, in pixels.
        factor: pixels per latent along a side.

    Raises:
        RuntimeError, MemoryError: memory ran out with the smallest tiles, too, or the image is no larger than one.
    """
    smaller = [tile for tile in SIDES if tile < min(side, vae.tile_sample_min_size if vae.use_tiling else side)]
    for tile in smaller:
        if (done := none_if_out_of_memory(work)) is not None:
            return done
        free_memory()
        vae.tile_sample_min_size, vae.tile_latent_min_size = tile, tile // factor
        vae.enable_tiling()
    return work()


def in_tiles(vae: Any, side: int) -> bool:
    """Whether images of this size, its longer side in pixels, go through this VAE in tiles."""
    return bool(getattr(vae, "use_tiling", False)) and side > int(vae.tile_sample_min_size)
