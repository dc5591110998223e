"""Line art by a net that was trained on drawings."""

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
    megabytes=17,
    licence="MIT (informative-drawings, the file sk_model.pth)",
    load="engine.conditions.types.lineart_net:load",
    file="sk_model.pth",
)
LINEART_NET = ConditionType(
    name="lineart_net",
    title="Line art (by a net)",
    teaches="A drawing like a person's: contours and folds as clean strokes, without grain and texture.",
    parameters=(
        Parameter(
            "model",
            "Weights",
            "text",
            "",
            hint="Empty: sk_model of lllyasviel/Annotators. Or a file in that format; sk_model2.pth draws less detail.",
        ),
        Parameter("strength", "Strength", "float", 1.0, 0.2, 4.0, 0.1, hint="Higher makes faint strokes white."),
    ),
    extract="engine.conditions.types.lineart_net:lineart_net",
    batch="engine.conditions.types.lineart_net:lineart_net_batch",
    metric="engine.conditions.types.lineart_net:lineart_net_adherence",
    models=(MODEL,),
)
BLOCKS = 3  # of the published weights
_MULTIPLE = 4  # the net halves the image's size twice


def build(width: int = 64, blocks: int = BLOCKS) -> Any:
    """The generator of informative-drawings (Chan, Durand, Isola 2022): two down, residual blocks, two up.

    Takes RGB 0..1 (n, 3, h, w) with sides that are multiples of 4. Returns (n, 1, h, w), 1 is paper and 0 is ink.
    Parameters are named model0.1, model1.0, ... model4.1, as in sk_model.pth.
    """
    from torch import nn

    def normed(*layers: Any) -> list[Any]:
        return [*layers, nn.InstanceNorm2d(layers[-1].out_channels), nn.ReLU()]

    def down(before: int) -> list[Any]:
        return normed(nn.Conv2d(before, 2 * before, 3, stride=2, padding=1))

    def up(before: int) -> list[Any]:
        return normed(nn.ConvTranspose2d(before, before // 2, 3, stride=2, padding=1, output_padding=1))

    class Residual(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            first, second = (nn.Conv2d(width, width, 3) for _ in range(2))
            norm = nn.InstanceNorm2d(width)
            self.conv_block = nn.Sequential(*normed(nn.ReflectionPad2d(1), first), nn.ReflectionPad2d(1), second, norm)

        def forward(self, features: Any) -> Any:
            return features + self.conv_block(features)

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model0 = nn.Sequential(*normed(nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7)))
            self.model1 = nn.Sequential(*down(width), *down(2 * width))
            self.model2 = nn.Sequential(*(Residual(4 * width) for _ in range(blocks)))
            self.model3 = nn.Sequential(*up(4 * width), *up(2 * width))
            self.model4 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 1, 7), nn.Sigmoid())

        def forward(self, pixels: Any) -> Any:
            for part in (self.model0, self.model1, self.model2, self.model3, self.model4):
                pixels = part(pixels)
            return pixels

    return Generator()


def load(place: Path, device: str) -> Any:
    """Builds the net with the file's weights, which determine its width and number of blocks. Reads tensors only."""
    state = weights.tensors(place)
    if "model0.1.weight" not in state:
        raise ValueError("it contains no model0.1.weight, so these are not line-art weights")
    blocks = {name.split(".")[1] for name in state if name.startswith("model2.")}
    net = build(state["model0.1.weight"].shape[0], len(blocks))
    net.load_state_dict(state)
    return net.to(device).eval()


def lineart_net(image: np.ndarray, *, model: str, strength: float) -> np.ndarray:
    """White strokes on black. RGB uint8 (h, w, 3) in and out."""
    return lineart_net_batch([image], model=model, strength=strength)[0]


def lineart_net_batch(images: list[np.ndarray], *, model: str, strength: float) -> list[np.ndarray]:
    """``lineart_net`` for many images. Those of one size go through the net together."""
    import cv2
    import torch

    net = weights.loaded(MODEL, model)
    found: list[Any] = [None] * len(images)
    with torch.inference_mode():
        for (height, width), members in by_size(image.shape[:2] for image in images):
            below, right = -height % _MULTIPLE, -width % _MULTIPLE
            whole = [cv2.copyMakeBorder(images[place], 0, below, 0, right, cv2.BORDER_REPLICATE) for place in members]
            pixels = torch.from_numpy(np.stack(whole)).permute(0, 3, 1, 2).float() / 255
            paper = net(pixels.to(weights.device()))[:, 0, :height, :width].float().cpu().numpy()
            for place, sheet in zip(members, paper, strict=True):
                ink = np.clip((1 - sheet) * (255 * strength), 0, 255)
                found[place] = cv2.cvtColor(np.round(ink).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    return found


def lineart_net_adherence(wanted: np.ndarray, got_image: np.ndarray, *, model: str, strength: float) -> float:
    """MS-SSIM of the drawn image's strokes and the map. 1 is perfect."""
    got = lineart_net(fit(got_image, wanted.shape[:2]), model=model, strength=strength)
    return ms_ssim(wanted[..., 0], got[..., 0])
