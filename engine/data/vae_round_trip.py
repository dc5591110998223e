"""What is left of control images once the VAE has encoded them: decoded again, and compared line by line.

A net that reads latents sees a control image in cells of 8 x 8 pixels. Lines one or two pixels wide may come out of the
VAE pale or not at all, and what is lost there cannot be learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.data.lines_kept import LOST
from engine.disk.durable import atomic_write
from engine.errors import UserError
from engine.families.base import Family
from engine.families.registry import detect
from engine.machine.device import torch_device
from engine.machine.memory import free_memory, none_if_out_of_memory

MEASURED = 4
"""Control images of a run that are decoded again."""
LINES_LOST = "Thin lines of the control images get lost in the base's VAE"
GAP = 8


@torch.no_grad()
def decoded(family: Family, vae: Any, control: torch.Tensor) -> np.ndarray:
    """Encoded control images (B, C, h, w) as the VAE decodes them: uint8 RGB (B, H, W, 3)."""
    images = [family.decode_control(vae, one[None].to(vae.device))[0] for one in control]
    levels = ((torch.stack(images).float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


class RoundTrip:
    """A base's VAE, to encode control images as its ControlNets read them and to decode them again.

    On the graphics card if there is one with room, else on the processor.

    Args:
        base: where the base is.

    Raises:
        UserError: the base cannot be read.
    """

    def __init__(self, base: str) -> None:
        self._base, self._family = base, detect(base)
        device = torch_device()
        self._vae: Any = none_if_out_of_memory(lambda: self._family.control_vae(base, device))
        if self._vae is None:
            self._vae = self._family.control_vae(base, torch.device("cpu"))

    @torch.no_grad()
    def decoded(self, map: np.ndarray) -> np.ndarray:
        """What is left of a control image, uint8 RGB (H, W, 3) in and out.

        Raises:
            UserError: memory is not enough.
        """

        def there_and_back() -> np.ndarray:
            pixels = torch.from_numpy(map[None].copy()).to(self._vae.device)
            return decoded(self._family, self._vae, self._family.encode_control(pixels, self._vae))[0]

        if (again := none_if_out_of_memory(there_and_back)) is None and self._vae.device.type != "cpu":
            self._vae = self._vae.to("cpu")
            free_memory()
            again = none_if_out_of_memory(there_and_back)
        if again is None:
            raise UserError(
                "The control image cannot be shown as the net sees it.",
                f"Memory is not enough to encode {map.shape[1]} x {map.shape[0]} px.",
                "Close other programs, or choose a smaller resolution.",
            )
        return again


def finding(kept: Sequence[float], picture: Path) -> str:
    """A sentence for the log if lines are lost; "" if not.

    Args:
        kept: share of the lines' pixels that each measured image keeps (``LinesKept.pixels``).
        picture: where they are shown.
    """
    if not kept or (mean := sum(kept) / len(kept)) >= LOST:
        return ""
    return (
        f"{LINES_LOST}: {mean:.0%} of their pixels are left. Draw thicker lines, or train at a larger resolution. "
        f"{picture} shows the control images before and after the VAE."
    )


def save_pairs(path: Path, maps: Sequence[np.ndarray], again: Sequence[np.ndarray]) -> None:
    """Write control images in the upper row, and what is left of them below."""
    rows = [np.concatenate([np.pad(one, ((0, GAP), (0, GAP), (0, 0))) for one in row], axis=1) for row in (maps, again)]
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, "PNG")
