"""Draws bodies as OpenPose does: 18 joints and 17 limbs, each in its own colour (Cao et al. 2019)."""

from __future__ import annotations

import numpy as np

JOINTS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85),
)  # fmt: skip
"""Nose, neck, right shoulder, elbow, wrist, left shoulder, elbow, wrist, right hip, knee, ankle, left hip, knee, ankle,
right eye, left eye, right ear, left ear. A limb has the colour of the joint with its index, dimmed."""
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_DIM = 0.6
_FROM_COCO = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # -1: the neck, between the shoulders


def from_coco(points: np.ndarray, sure: np.ndarray, least: float) -> np.ndarray:
    """Converts COCO's 17 keypoints, (17, 2) in pixels, to 18 joints. nan if the confidence (17,) is below ``least``."""
    seen = np.where((sure >= least)[:, None], points.astype(np.float64), np.nan)
    neck = (seen[5] + seen[6]) / 2
    return np.stack([neck if source < 0 else seen[source] for source in _FROM_COCO])


def draw(bodies: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Draws bodies, (18, 2) x and y in pixels (nan: unknown joint), on black. RGB uint8 (h, w, 3).

    Limbs are about 1/64 of the shorter side wide: 8 px at 512, as in OpenPose.
    """
    import cv2

    made = np.zeros((*shape, 3), np.uint8)
    half = max(1, round(min(shape) / 128))
    for body in bodies:
        for colour, (first, second) in zip(JOINTS, LIMBS, strict=False):
            ends = body[[first, second]]
            if np.isnan(ends).any():
                continue
            along = ends[1] - ends[0]
            middle, length = ends.mean(0), float(np.hypot(*along))
            angle = float(np.degrees(np.arctan2(along[1], along[0])))
            oval = cv2.ellipse2Poly(tuple(int(v) for v in middle), (int(length / 2), half), int(angle), 0, 360, 1)
            cv2.fillConvexPoly(made, oval, tuple(int(part * _DIM) for part in colour))
        for colour, joint in zip(JOINTS, body, strict=True):
            if not np.isnan(joint).any():
                cv2.circle(made, tuple(int(v) for v in joint), half, colour, -1)
    return made
