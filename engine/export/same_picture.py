"""The last check of an export: the picture from the file beside the picture from the checkpoint. For small nets.

At the size of Stable Diffusion a picture takes minutes on a processor; there the nets' answers are compared alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from engine.export.self_check import Tensors, failed, net_of
from engine.export.source import Source
from engine.families import Family
from engine.sampling import Drawing, decode, draw_latents, to_hint

MAX_PARAMETERS = 30_000_000
STEPS = 4
SIDE = 128
# Mean difference of two pictures in grey levels of 255: what rounding the weights may do over the denoising steps.
TOLERANCE = {"fp32": 0.5, "fp16": 4.0, "bf16": 12.0}


def small(tensors: Tensors) -> bool:
    """Whether drawing with such a net takes no more than seconds."""
    return sum(tensor.numel() for tensor in tensors.values()) <= MAX_PARAMETERS


def check(source: Source, tensors: Tensors, family: Family, base: str, name: str) -> str:
    """Draw twice with the same seed, prompt and map, and compare.

    Args:
        tensors: as read back from the file.
        base: located.

    Returns:
        A sentence with the difference.

    Raises:
        UserError: the pictures differ by more than the precision explains.
    """
    nets = [net_of(source.config, source.original), net_of(source.config, source.whole(tensors, name))]
    first, second = draw(family, base, nets)
    difference = float(np.abs(first.astype(int) - second).mean())
    exact = source.base is None or source.trained_thin
    if exact and difference > TOLERANCE[source.coarsest]:
        raise failed(f"the file draws another picture than the checkpoint (by {difference:.1f} of 255 grey levels)")
    return f"The same seed draws the same picture from both (mean difference {difference:.2f} of 255)."


@torch.no_grad()
def draw(family: Family, base: str, nets: list[Any]) -> list[np.ndarray]:
    """A picture from each net under a white ring, uint8 RGB.

    Raises:
        UserError: the base cannot be loaded.
    """
    tokenizer, encoder = family.load_tokenizer(base), family.load_text_encoder(base, torch.float32)
    text, negative = (
        family.encode_text(tokenizer, encoder, ["a red circle"]),
        family.encode_text(tokenizer, encoder, [""]),
    )
    unet, vae = family.load_unet(base, torch.float32), family.load_vae(base, torch.float32)
    hints = to_hint(ring(SIDE), SIDE, SIDE)[None]
    pictures = []
    for net in nets:
        pipeline = family.pipeline(base, net, torch.float32, unet=unet, vae=None, text_encoder=None, tokenizer=None)
        latents = draw_latents(family, pipeline, text, negative, hints, [0], Drawing(STEPS, 3.0, 1.0))
        pictures.append(np.asarray(decode(family, vae, latents)[0]))
    return pictures


def ring(side: int) -> np.ndarray:
    """A white ring on black, uint8 RGB (side, side, 3)."""
    ys, xs = np.mgrid[:side, :side]
    on = np.abs(np.hypot(xs - side / 2, ys - side / 2) - side / 3) < side / 40
    return np.repeat(on[..., None] * np.uint8(255), 3, axis=2)


def possible(source: Source, base: str) -> bool:
    """Whether pictures can be compared here: a small net whose base is at hand."""
    return bool(base) and small(source.original)
