"""Depth: how far away everything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import model_inputs, weights
from engine.conditions.declaration import ConditionType, Parameter, RequiredModel
from engine.conditions.metrics import correlation, fit

MODEL = RequiredModel(
    id="depth-anything/Depth-Anything-V2-Small-hf",
    megabytes=99,
    licence="Apache-2.0",
    load="engine.conditions.types.depth:load",
)
MODEL_PARAMETER = Parameter(
    "model",
    "Depth model",
    "text",
    "",
    hint="Empty: Depth Anything V2 Small. Or a folder, or the Hugging Face id of a depth model for transformers.",
)
DEPTH = ConditionType(
    name="depth",
    title="Depth",
    teaches="Depth: near is white, far is black, and the image keeps that layout in any style.",
    parameters=(
        MODEL_PARAMETER,
        Parameter("cut_off", "Ignore extremes", "float", 1.0, 0.0, 10.0, 0.5, hint="Percentage of pixels at each end."),
    ),
    extract="engine.conditions.types.depth:depth",
    batch="engine.conditions.types.depth:depth_batch",
    metric="engine.conditions.types.depth:depth_adherence",
    models=(MODEL,),
)
_FALLBACK = 518  # pixels, if the model's folder does not specify it
METRES = ("zoedepth", "depth_pro", "glpn")  # these predict distance, the others nearness (inverse depth)


def load(place: Path, device: str) -> Any:
    """(model, preprocessing) of any depth model that transformers supports."""
    from transformers import AutoModelForDepthEstimation

    model = AutoModelForDepthEstimation.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    model = model.to(device).eval()
    return model, model_inputs.read_preprocessing(place, _FALLBACK)


def depth(image: np.ndarray, *, model: str, cut_off: float) -> np.ndarray:
    """Near is white, far is black, relative to the range of each image. RGB uint8 (h, w, 3) in and out."""
    return depth_batch([image], model=model, cut_off=cut_off)[0]


def depth_batch(images: list[np.ndarray], *, model: str, cut_off: float) -> list[np.ndarray]:
    """``depth`` for many images. Those of one size go through the model together."""
    return [grey_map(near, cut_off) for near in nearness(images, model)]


def nearness(images: list[np.ndarray], model: str) -> list[np.ndarray]:
    """The model's output, float32 (h, w) in each image's size. Larger is nearer; scale and offset are arbitrary."""
    import cv2
    import torch

    net, how = weights.loaded(MODEL, model)
    found: list[Any] = [None] * len(images)
    with torch.inference_mode():
        for members, pixels in model_inputs.preprocess(images, how):
            predicted = net(pixel_values=pixels).predicted_depth.float().cpu().numpy()
            for place, values in zip(members, predicted, strict=True):
                if getattr(net.config, "model_type", "") in METRES:
                    values = 1 / np.maximum(values, 1e-3)
                height, width = images[place].shape[:2]
                found[place] = cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC)
    return found


def grey_map(values: np.ndarray, cut_off: float) -> np.ndarray:
    """Scales values to RGB uint8 0..255, after clipping ``cut_off`` percent at each end."""
    low, high = np.percentile(values, (cut_off, 100 - cut_off))
    grey = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1) * 255
    return np.round(grey).astype(np.uint8)[..., None].repeat(3, 2)


def depth_adherence(wanted: np.ndarray, got_image: np.ndarray, *, model: str, cut_off: float) -> float:
    """Pearson's r of the drawn image's depth and the map, which ignores scale and offset: 0 is chance, 1 perfect."""
    got = depth(fit(got_image, wanted.shape[:2]), model=model, cut_off=cut_off)
    return correlation(wanted[..., 0], got[..., 0])
