"""Semantic segmentation: one colour for each class of things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import model_inputs, weights
from engine.conditions.declaration import ConditionType, Parameter, RequiredModel
from engine.conditions.metrics import fit
from engine.conditions.types.ade20k import PALETTE

MODEL = RequiredModel(
    id="openmmlab/upernet-convnext-small",
    megabytes=328,
    licence="MIT",
    load="engine.conditions.types.segmentation:load",
)
SEGMENTATION = ConditionType(
    name="segmentation",
    title="Segmentation",
    teaches="Kinds of objects by position: one colour each for sky, tree and wall; the net draws each in its place.",
    parameters=(
        Parameter(
            "model", "Segmentation model", "text", "",
            hint="Empty: UperNet ConvNeXt Small. Or a folder, or the Hugging Face id of a semantic segmentation model.",
        ),
        Parameter(
            "smallest", "Smallest area", "float", 0.1, 0.0, 5.0, 0.1,
            hint="Percentage of the image. Smaller areas are merged into their surroundings.",
        ),
    ),
    categorical=True,
    extract="engine.conditions.types.segmentation:segmentation",
    batch="engine.conditions.types.segmentation:segmentation_batch",
    metric="engine.conditions.types.segmentation:segmentation_adherence",
    models=(MODEL,),
)  # fmt: skip
_FALLBACK = 512  # pixels, if the model's folder does not specify it


def load(place: Path, device: str) -> Any:
    """(model, preprocessing) of any semantic segmentation model that transformers supports."""
    from transformers import AutoModelForSemanticSegmentation

    model = AutoModelForSemanticSegmentation.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    model = model.to(device).eval()
    return model, model_inputs.read_preprocessing(place, _FALLBACK)


def segmentation(image: np.ndarray, *, model: str, smallest: float) -> np.ndarray:
    """The ADE20K colour of every pixel's class. RGB uint8 (h, w, 3) in and out."""
    return segmentation_batch([image], model=model, smallest=smallest)[0]


def segmentation_batch(images: list[np.ndarray], *, model: str, smallest: float) -> list[np.ndarray]:
    """``segmentation`` for many images, which go through the model together."""
    return [coloured(without_specks(labels, smallest)) for labels in labels_of(images, model)]


def labels_of(images: list[np.ndarray], model: str) -> list[np.ndarray]:
    """The most likely class of every pixel, int (h, w), 0 to classes - 1."""
    import torch

    net, how = weights.loaded(MODEL, model)
    found: list[Any] = [None] * len(images)
    with torch.inference_mode():
        for members, pixels in model_inputs.preprocess(images, how):
            logits = net(pixel_values=pixels).logits.float()
            for place, one in zip(members, logits, strict=True):
                full = torch.nn.functional.interpolate(one[None], images[place].shape[:2], mode="bilinear")
                found[place] = full[0].argmax(0).cpu().numpy().astype(np.int32)
    return found


def without_specks(labels: np.ndarray, smallest: float) -> np.ndarray:
    """Gives connected areas below ``smallest`` percent the class of most pixels around them."""
    import cv2

    least = labels.size * smallest / 100
    made = labels.copy()
    for label in np.unique(labels):
        areas, numbered, about, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8), connectivity=4)
        for area in range(1, areas):
            x, y, width, height, size = about[area]
            if size >= least:
                continue
            window = np.s_[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1]
            inside = (numbered[window] == area).astype(np.uint8)
            rim = (cv2.dilate(inside, np.ones((3, 3), np.uint8)) > 0) & (inside == 0)
            if rim.any():
                made[window][inside > 0] = np.bincount(labels[window][rim]).argmax()
    return made


def coloured(labels: np.ndarray) -> np.ndarray:
    """The colours of the classes. ADE20K has 150; further classes start over."""
    return np.array(PALETTE, np.uint8)[labels % len(PALETTE)]


def segmentation_adherence(wanted: np.ndarray, got_image: np.ndarray, *, model: str, smallest: float) -> float:
    """Mean intersection over union (mIoU) of the map's classes with those in the drawn image. 1 is perfect."""
    got = segmentation(fit(got_image, wanted.shape[:2]), model=model, smallest=smallest)
    first, second = _packed(wanted), _packed(got)
    classes = np.unique(first)
    return float(
        np.mean([((first == c) & (second == c)).sum() / ((first == c) | (second == c)).sum() for c in classes])
    )


def _packed(map: np.ndarray) -> np.ndarray:
    return map.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
