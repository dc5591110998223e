"""A new hint encoder lets the condition map through, and still adds nothing at the start."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from engine.demo.circles import circle_scene, outline
from engine.families.registry import detect
from engine.nets.initial import he_initialization


def seen(controlnet: torch.nn.Module, hints: torch.Tensor) -> float:
    """How much the features differ between images at the same position, as a fraction of their total deviation."""
    encoder = controlnet.controlnet_cond_embedding
    features = functional.silu(encoder.conv_in(hints))
    for layer in encoder.blocks:
        features = functional.silu(layer(features))
    return float(features.std(0).mean() / features.std())


@torch.no_grad()
def test_the_map_comes_through_to_the_last_layer(tiny_base: Path) -> None:
    import numpy as np

    family = detect(str(tiny_base))
    maps = np.stack([outline(circle_scene(np.random.default_rng([7, n])), 128) for n in range(8)])
    hints = family.encode_control(torch.from_numpy(maps))
    torch.manual_seed(0)
    controlnet = family.new_controlnet(family.load_denoiser(str(tiny_base), torch.float32))
    assert seen(controlnet, hints) < 0.02
    he_initialization(controlnet.controlnet_cond_embedding)
    assert seen(controlnet, hints) > 0.3
    assert not controlnet.controlnet_cond_embedding(hints).any()
