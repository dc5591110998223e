"""What the VAE leaves of control images: told once in a run, and shown. How it is measured: test_through_vae.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from engine.data.vae_round_trip import decoded, finding
from engine.families.registry import detect


def lines(level: int = 255) -> np.ndarray:
    map = np.zeros((64, 64, 3), np.uint8)
    map[10, 5:60] = map[5:60, 30] = level
    return map


def test_the_finding_names_the_share_and_where_to_look(tmp_path: Path) -> None:
    assert finding([], tmp_path) == finding([0.5, 0.9], tmp_path) == ""
    words = finding([0.2, 0.4], tmp_path / "control-1.png")
    assert "30% of their pixels" in words and "control-1.png" in words


def test_a_hint_is_decoded_as_the_vae_encoded_it(tiny_sd3: Path) -> None:
    """Without the shift that the hint leaves out, whose decoding would change the colours."""
    family = detect(str(tiny_sd3))
    vae = family.load_vae(str(tiny_sd3))
    map = torch.from_numpy(lines())[None]
    again = decoded(family, vae, family.encode_control(map, vae))[0]
    pixels = map.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = vae.decode(vae.encode(pixels).latent_dist.mean).sample[0]  # type: ignore[operator]
    levels = ((expected / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert again.shape == (64, 64, 3) and np.abs(again.astype(int) - levels).max() <= 1
