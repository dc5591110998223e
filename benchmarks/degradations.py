"""Real photographs, and degradations of known strength: what the adherence metrics are calibrated on."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

SIDE = 512
NAMES = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "hubble_deep_field", "immunohistochemistry")


def photographs(side: int = SIDE, count: int = 16) -> list[np.ndarray]:
    """Squares of ``side`` pixels out of the photographs that come with scikit-image, two of each, RGB uint8."""
    from skimage import data

    found = []
    for half in (0, 1):
        for name in NAMES:
            image = getattr(data, name)()
            image = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., :3]
            height, width = image.shape[:2]
            cut = int(0.62 * min(height, width))
            top, left = ((0, 0), (height - cut, width - cut))[half]
            square = image[top : top + cut, left : left + cut]
            found.append(
                cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA if cut > side else cv2.INTER_CUBIC)
            )
    return found[:count]


def jpeg90(image: np.ndarray, seed: int) -> np.ndarray:
    """The same image through JPEG, quality 90: what a lossless redrawing would at worst be."""
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]


def retexture(image: np.ndarray, seed: int) -> np.ndarray:
    """The same scene in other colours and another texture: recoloured, blurred, with new noise."""
    rng = np.random.default_rng([seed, 1])
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    angle = rng.uniform(0.6, 1.4) * rng.choice((-1, 1))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    lab[..., 1:] = lab[..., 1:] @ turn
    lab = cv2.GaussianBlur(lab, (0, 0), 1.2)
    lab[..., 0] += 3.0 * rng.standard_normal(lab.shape[:2]).astype(np.float32)
    return (np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255).round().astype(np.uint8)


def warped(image: np.ndarray, seed: int) -> np.ndarray:
    """Bent by some 2.5 px each way, then retextured: the scene is there, but not quite where it was asked for."""
    rng = np.random.default_rng([seed, 2])
    height, width = image.shape[:2]
    shifts = []
    for _ in range(2):
        coarse = rng.standard_normal((24, 24)).astype(np.float32)
        field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        shifts.append((field / field.std() * 2.5).astype(np.float32))
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    bent = cv2.remap(image, xs + shifts[0], ys + shifts[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return retexture(bent, seed)


def another(images: list[np.ndarray], number: int) -> np.ndarray:
    """Some other photograph: what a net that ignores its map would draw."""
    return images[(number + 1) % len(images)]


DEGREES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "jpeg90": jpeg90, "retexture": retexture, "+ warp": warped,
}  # fmt: skip
