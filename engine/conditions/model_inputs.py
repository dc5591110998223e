"""Images as the models of the condition types expect them: scaled, normalized, and in batches of one size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import weights


def by_size(sizes: Iterable[tuple[int, int]]) -> list[tuple[tuple[int, int], list[int]]]:
    """The indices of the images of each size (height, width): they go through a net together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, size in enumerate(sizes):
        groups.setdefault(size, []).append(place)
    return list(groups.items())


@dataclass(frozen=True)
class Preprocessing:
    """How a model expects its images, from the preprocessor_config.json next to its weights."""

    size: tuple[int, int]
    """(height, width) in pixels. With ``keep_aspect`` the image is scaled to be close to it."""
    keep_aspect: bool
    multiple: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_preprocessing(folder: Path, fallback: int) -> Preprocessing:
    """Reads the config. Defaults: ``fallback`` pixels, and ImageNet's mean and standard deviation."""
    import json

    path = folder / "preprocessor_config.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    size = about.get("size", fallback)
    if isinstance(size, dict):
        side = size.get("shortest_edge", fallback)
        size = (size.get("height", side), size.get("width", side))
    else:
        size = (size, size) if isinstance(size, int) else tuple(size)
    if not about.get("do_normalize", True):
        about = {**about, "image_mean": (0, 0, 0), "image_std": (1, 1, 1)}
    return Preprocessing(
        size,
        bool(about.get("keep_aspect_ratio", False)),
        int(about.get("ensure_multiple_of") or 1),
        tuple(about.get("image_mean", (0.485, 0.456, 0.406))),
        tuple(about.get("image_std", (0.229, 0.224, 0.225))),
    )


def preprocess(images: Sequence[np.ndarray], how: Preprocessing) -> list[tuple[list[int], Any]]:
    """Images as float tensors (n, 3, h, w), one for each size: [(indices of the images, tensor)]."""
    import cv2
    import torch

    mean, std = np.array(how.mean, np.float32), np.array(how.std, np.float32)
    found = []
    for (height, width), members in by_size(_fitted(image.shape[:2], how) for image in images):
        rows = [cv2.resize(images[place], (width, height), interpolation=cv2.INTER_CUBIC) for place in members]
        values = (np.stack(rows).astype(np.float32) / 255 - mean) / std
        found.append(
            (members, torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2))).to(weights.device()))
        )
    return found


def _fitted(shape: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    """The size to which an image (height, width) is scaled."""
    size = how.size
    if how.keep_aspect:
        scale = min((how.size[0] / shape[0], how.size[1] / shape[1]), key=lambda s: abs(1 - s))
        size = (round(shape[0] * scale), round(shape[1] * scale))
    return tuple(max(how.multiple, round(side / how.multiple) * how.multiple) for side in size)  # type: ignore[return-value]
