"""Photographs, and degradations of known strength: the adherence metrics are calibrated on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

SIDE = 512
NAMES = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "hubble_deep_field", "immunohistochemistry")


def photographs(side: int = SIDE, count: int = 16) -> list[np.ndarray]:
    """Crops of scikit-image's photographs, two of each: RGB uint8 (side, side, 3)."""
    from skimage import data

    found = []
    for half in (0, 1):
        for name in NAMES:
            loaded: Any = getattr(data, name)()
            image = np.asarray(np.stack([loaded] * 3, axis=-1) if loaded.ndim == 2 else loaded[..., :3])
            height, width = image.shape[:2]
            size = int(0.62 * min(height, width))
            top, left = ((0, 0), (height - size, width - size))[half]
            square = image[top : top + size, left : left + size]
            found.append(
                cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA if size > side else cv2.INTER_CUBIC)
            )
    return found[:count]


def jpeg90(image: np.ndarray, seed: int) -> np.ndarray:
    """JPEG at quality 90: nearly the same image."""
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]


def retexture(image: np.ndarray, seed: int) -> np.ndarray:
    """The same scene in different colours and texture: hues rotated, blurred, noise added."""
    rng = np.random.default_rng([seed, 1])
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    angle = rng.uniform(0.6, 1.4) * rng.choice((-1, 1))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    lab[..., 1:] = lab[..., 1:] @ rotation
    lab = cv2.GaussianBlur(lab, (0, 0), 1.2)
    lab[..., 0] += 3.0 * rng.standard_normal(lab.shape[:2]).astype(np.float32)
    return (np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255).round().astype(np.uint8)


def warped(image: np.ndarray, seed: int) -> np.ndarray:
    """Warp by about 2.5 px in each direction, then retexture: the right scene, slightly out of place."""
    rng = np.random.default_rng([seed, 2])
    height, width = image.shape[:2]
    shifts = []
    for _ in range(2):
        coarse = rng.standard_normal((24, 24)).astype(np.float32)
        field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        shifts.append((field / field.std() * 2.5).astype(np.float32))
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    moved = cv2.remap(image, xs + shifts[0], ys + shifts[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return retexture(moved, seed)


def another(images: list[np.ndarray], number: int) -> np.ndarray:
    """A different photograph, as a ControlNet draws that ignores its control image."""
    return images[(number + 1) % len(images)]


DEGRADATIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "jpeg90": jpeg90,
    "retexture": retexture,
    "+ warp": warped,
}
