"""What is left of control images once the VAE has encoded them: decoded again, and compared line by line.

A net that reads latents sees a control image in cells of 8 x 8 pixels. Lines of a pixel or two may come out of the
VAE pale or not at all, and what is lost there cannot be learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from engine.disk.durable import atomic_write
from engine.families.base import Family

MEASURED = 4
"""Control images that are decoded again."""
LOST = 0.5
"""Share of their contrast below which lines are lost. A rule of thumb; no base of full size was measured."""
LINES_LOST = "Thin lines of the control images are lost in the base's VAE"
LEAST_DRAWN, DRAWN = 20, 64
"""Pixels that a line map has at least, and how far from its ground they are, of 255."""
GAP = 8


@torch.no_grad()
def decoded(family: Family, vae: Any, control: torch.Tensor) -> np.ndarray:
    """Encoded control images (B, C, h, w) as the VAE decodes them: uint8 RGB (B, H, W, 3)."""
    images = [family.decode_control(vae, one[None].to(vae.device))[0] for one in control]
    levels = ((torch.stack(images).float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def contrast_kept(map: np.ndarray, again: np.ndarray) -> float | None:
    """The share of its lines' contrast that a control image keeps, 0..1; None: it is none of lines on a plain ground.

    Args:
        map, again: before and after the VAE, uint8 RGB (H, W, 3).
    """
    grey, after = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY).astype(np.float32) for one in (map, again))
    ground = float(np.bincount(grey.astype(np.uint8).ravel(), minlength=256).argmax())
    drawn = np.abs(grey - ground) >= DRAWN
    if not LEAST_DRAWN <= drawn.sum() <= grey.size / 2:
        return None
    direction = np.sign(grey[drawn] - ground)
    kept = float(((after[drawn] - np.median(after[~drawn])) * direction).mean())
    return float(np.clip(kept / np.abs(grey[drawn] - ground).mean(), 0, 1))


def finding(kept: Sequence[float], picture: Path) -> str:
    """A sentence for the log if lines are lost; "" if not.

    Args:
        kept: ``contrast_kept`` of each measured image.
        picture: where they are shown.
    """
    if not kept or (mean := sum(kept) / len(kept)) >= LOST:
        return ""
    return (
        f"{LINES_LOST}: {mean:.0%} of their contrast is left. Draw wider lines, or train at a larger resolution. "
        f"{picture} shows the control images before and after it."
    )


def save_pairs(path: Path, maps: Sequence[np.ndarray], again: Sequence[np.ndarray]) -> None:
    """Write control images in the upper row, and what is left of them below."""
    rows = [np.concatenate([np.pad(one, ((0, GAP), (0, GAP), (0, 0))) for one in row], axis=1) for row in (maps, again)]
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, "PNG")
