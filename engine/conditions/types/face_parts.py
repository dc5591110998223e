"""Draws a face as coloured outlines, from the points of a face mesh."""

from __future__ import annotations

import numpy as np

POINTS = 468
"""Number of points in the face mesh (Kartynnik et al. 2019). Left and right are the person's own."""
PARTS: dict[str, tuple[tuple[int, int, int], tuple[tuple[int, ...], ...]]] = {
    "outline": ((255, 255, 255), ((
        10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
        150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 10,
    ),)),
    "right eyebrow": ((255, 128, 0), ((46, 53, 52, 65, 55), (70, 63, 105, 66, 107))),
    "left eyebrow": ((0, 128, 255), ((276, 283, 282, 295, 285), (300, 293, 334, 296, 336))),
    "right eye": ((255, 255, 0), (
        (33, 7, 163, 144, 145, 153, 154, 155, 133), (33, 246, 161, 160, 159, 158, 157, 173, 133),
    )),
    "left eye": ((0, 255, 255), (
        (263, 249, 390, 373, 374, 380, 381, 382, 362), (263, 466, 388, 387, 386, 385, 384, 398, 362),
    )),
    "nose": ((0, 255, 0), ((168, 6, 197, 195, 5, 4, 1), (98, 97, 2, 326, 327))),
    "lips": ((255, 0, 64), (
        (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291), (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
    )),
    "mouth": ((192, 0, 255), (
        (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308), (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
    )),
}  # fmt: skip
"""For each part its colour, and its lines as indices of mesh points."""
COLOURS = tuple(colour for colour, _ in PARTS.values())
_FINE = 4  # fractional bits of the coordinates for cv2.polylines


def draw(faces: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Draws faces, (468, 2) in pixels, on black. RGB uint8 (h, w, 3). Lines are 1/256 of the shorter side wide."""
    import cv2

    made = np.zeros((*shape, 3), np.uint8)
    width = max(1, round(min(shape) / 256))
    for face in faces:
        for colour, lines in PARTS.values():
            paths = [np.round(face[list(line)] * 2**_FINE).astype(np.int32) for line in lines]
            cv2.polylines(made, paths, False, colour, width, cv2.LINE_8, _FINE)
    return made
