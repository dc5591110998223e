"""Soft edges by a net that was trained on human annotations (HED)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import weights
from engine.conditions.declaration import ConditionType, Parameter, RequiredModel
from engine.conditions.metrics import fit, ms_ssim
from engine.conditions.model_inputs import by_size

MODEL = RequiredModel(
    id="lllyasviel/Annotators",
    megabytes=29,
    licence="Apache-2.0 (the file ControlNetHED.pth)",
    load="engine.conditions.types.soft_edge:load",
    file="ControlNetHED.pth",
)
SOFT_EDGE = ConditionType(
    name="soft_edge",
    title="Soft edges (HED)",
    teaches="The important contours: soft lines, bright where a person would draw them. Leaves much to the prompt.",
    parameters=(
        Parameter(
            "model",
            "Weights",
            "text",
            "",
            hint="Empty: ControlNetHED of lllyasviel/Annotators. Or a .safetensors or .pth file in that format.",
        ),
        Parameter(
            "steps", "Shades", "int", 0, 0, 16, 1, hint="0 keeps all shades. A few shades look like a marker pen."
        ),
    ),
    extract="engine.conditions.types.soft_edge:soft_edge",
    batch="engine.conditions.types.soft_edge:soft_edge_batch",
    metric="engine.conditions.types.soft_edge:soft_edge_adherence",
    models=(MODEL,),
)
WIDTHS = (64, 128, 256, 512, 512)  # channels of the five stages, as in VGG 16
DEPTHS = (2, 2, 3, 3, 3)


def build(widths: tuple[int, ...] = WIDTHS, depths: tuple[int, ...] = DEPTHS) -> Any:
    """The net of Xie & Tu 2015 in ControlNet's version: five stages of 3 x 3 convolutions, each with an edge map.

    Takes RGB 0..255 (n, 3, h, w). Returns five maps of logits, each in its stage's size. Parameters are named norm,
    blockN.convs.M and blockN.projection, as in ControlNetHED.pth.
    """
    import torch
    from torch import nn

    class Stage(nn.Module):
        def __init__(self, before: int, width: int, depth: int) -> None:
            super().__init__()
            sizes = [before, *[width] * depth]
            self.convs = nn.ModuleList(nn.Conv2d(sizes[n], sizes[n + 1], 3, padding=1) for n in range(depth))
            self.projection = nn.Conv2d(width, 1, 1)

    class Hed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
            for number, (before, width, depth) in enumerate(zip((3, *widths), widths, depths, strict=False), 1):
                self.add_module(f"block{number}", Stage(before, width, depth))

        def forward(self, pixels: Any) -> list[Any]:
            features, edges = pixels - self.norm, []
            for number in range(1, len(widths) + 1):
                stage = self.get_submodule(f"block{number}")
                if number > 1:
                    features = nn.functional.max_pool2d(features, 2)
                for conv in stage.convs:
                    features = conv(features).relu()
                edges.append(stage.projection(features))
            return edges

    return Hed()


def load(place: Path, device: str) -> Any:
    """Builds the net with the file's weights, which determine its widths. Reads tensors only, no code."""
    state = weights.tensors(place)
    stages = [
        sorted(n for n in state if n.startswith(f"block{s}.convs.") and n.endswith("weight")) for s in range(1, 6)
    ]
    if not all(stages):
        raise ValueError("it contains no block1 to block5, so these are not HED weights")
    net = build(tuple(state[names[0]].shape[0] for names in stages), tuple(len(names) for names in stages))
    net.load_state_dict(state)
    return net.to(device).eval()


def soft_edge(image: np.ndarray, *, model: str, steps: int) -> np.ndarray:
    """White edges on black, brighter where the net is more confident. RGB uint8 (h, w, 3) in and out."""
    return soft_edge_batch([image], model=model, steps=steps)[0]


def soft_edge_batch(images: list[np.ndarray], *, model: str, steps: int) -> list[np.ndarray]:
    """``soft_edge`` for many images. Those of one size go through the net together."""
    import cv2
    import torch

    net = weights.loaded(MODEL, model)
    found: list[Any] = [None] * len(images)
    with torch.inference_mode():
        for (height, width), members in by_size(image.shape[:2] for image in images):
            pixels = torch.from_numpy(np.stack([images[n] for n in members])).permute(0, 3, 1, 2).float()
            maps = [edges[:, 0].float().cpu().numpy() for edges in net(pixels.to(weights.device()))]
            for row, place in enumerate(members):
                scaled = [cv2.resize(map[row], (width, height), interpolation=cv2.INTER_LINEAR) for map in maps]
                found[place] = _drawn(np.mean(scaled, 0), steps)
    return found


def soft_edge_adherence(wanted: np.ndarray, got_image: np.ndarray, *, model: str, steps: int) -> float:
    """MS-SSIM of the drawn image's soft edges and the map. 1 is perfect."""
    got = soft_edge(fit(got_image, wanted.shape[:2]), model=model, steps=steps)
    return ms_ssim(wanted[..., 0], got[..., 0])


def _drawn(logits: np.ndarray, steps: int) -> np.ndarray:
    sure = 1 / (1 + np.exp(-logits.astype(np.float64)))
    if steps >= 2:
        sure = np.floor(sure * steps + 0.5) / steps
    return np.round(np.clip(sure, 0, 1) * 255).astype(np.uint8)[..., None].repeat(3, 2)
