"""Shows what the net sees of a pair: image and map as cropped for training, and the map over the image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from engine.conditions import registry
from engine.data.crop import apply_crop
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.disk.images import load_map, load_rgb
from engine.errors import UserError

GAP = 8  # pixels between the parts of a strip
_TINT = np.array([255, 0, 160], np.float32)  # a colour that is rare in photographs


def view(dataset: Dataset, sample: Sample, plan: CropPlan) -> tuple[Image.Image, Image.Image | None]:
    """Image and map after cropping, RGB, in the plan's size. The map is None if it does not exist yet.

    Raises UserError for a file that cannot be read.
    """

    whole = load_rgb(sample.image, old_ground=sample.old_ground)
    crop = plan.crop(sample, image=whole)
    image = apply_crop(whole, crop)
    path = map_path(dataset, sample)
    if path is None:
        return image, None
    assert dataset.condition is not None  # otherwise there is no path
    nearest = registry.get(dataset.condition.type).categorical
    return image, apply_crop(load_map(path, sample.old_ground), crop, nearest=nearest)


def map_path(dataset: Dataset, sample: Sample) -> Path | None:
    """The path of the sample's map, or None if it does not exist."""
    if dataset.condition is None:
        return None
    try:
        path = dataset.condition_path(sample)
    except UserError:
        return None
    return path if path.exists() else None


def overlay(image: Image.Image, map: Image.Image) -> Image.Image:
    """Draws the map's lines, or the borders of its areas, in a bright colour over the faded image. RGB, one size."""
    grey = cv2.cvtColor(np.asarray(map), cv2.COLOR_RGB2GRAY)
    counts = np.bincount(grey.ravel(), minlength=256)
    ground = int(counts.argmax())
    drawn = np.abs(grey.astype(np.int16) - ground).astype(np.float32) / 255
    if counts[ground] < 0.5 * grey.size:  # no lines but areas or gradients: show where they change
        change = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(np.float32)
        drawn = np.clip((change - 12) / 48, 0, 1)
    faded = 0.65 * np.asarray(image, np.float32) + 0.35 * 255
    alpha = drawn[..., None]
    return Image.fromarray((faded * (1 - alpha) + _TINT * alpha).astype(np.uint8))


def strip(dataset: Dataset, sample: Sample, plan: CropPlan, side: int = 384) -> Image.Image:
    """Image, map and overlay side by side, ``side`` pixels high. Only the image if there is no map."""
    image, map = view(dataset, sample, plan)
    parts = [image] if map is None else [image, map, overlay(image, map)]
    width = max(1, round(side * image.width / image.height))
    row = Image.new("RGB", (len(parts) * (width + GAP) - GAP, side), (128, 128, 128))
    for place, part in enumerate(parts):
        row.paste(part.resize((width, side), Image.Resampling.LANCZOS), (place * (width + GAP), 0))
    return row
