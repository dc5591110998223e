"""Faces: outline, eyebrows, eyes, nose and mouth, from the 468 points of a face mesh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import weights
from engine.conditions.declaration import ConditionType, Parameter, RequiredModel
from engine.conditions.metrics import edge_f1_by_colour, fit
from engine.conditions.types import face_parts

DETECTOR_FILE, MESH_FILE = "face_detection_short_range", "face_landmark"
MODEL = RequiredModel(
    id="mediapipe-0.10.21",
    megabytes=36,
    licence="Apache-2.0",
    load="engine.conditions.types.face:load",
    wheel="mediapipe==0.10.21",
    files=(
        f"mediapipe/modules/face_detection/{DETECTOR_FILE}.tflite",
        f"mediapipe/modules/face_landmark/{MESH_FILE}.tflite",
    ),
)
FACE = ConditionType(
    name="face",
    title="Face landmarks",
    teaches="Faces: coloured lines show the head, eyebrows, eyes, nose and mouth, and thus the gaze and expression.",
    parameters=(
        Parameter(
            "model",
            "Face models",
            "text",
            "",
            hint="Empty: those inside the Python package mediapipe 0.10.21 (it does not need to run). Or a folder with "
            f"{DETECTOR_FILE} and {MESH_FILE}, .tflite or .onnx.",
        ),
        Parameter("sure", "Confidence", "float", 0.5, 0.0, 1.0, 0.05, hint="Higher values leave out doubtful faces."),
        Parameter("people", "Maximum number", "int", 10, 1, 50, 1, hint="Faces per image, most confident ones first."),
    ),
    extract="engine.conditions.types.face:face",
    metric="engine.conditions.types.face:face_adherence",
    models=(MODEL,),
)
_DETECTOR_SIDE, _MESH_SIDE = 128, 192  # input sizes of the two nets, in pixels
_GRIDS = ((16, 2), (8, 6))  # cells along a side of the detector's layers, and predictions in each cell
_PADDING = 1.5  # of a face's square, as in the training of the mesh net
_SAME = 0.3  # boxes with at least this intersection over union are one face
_TILE = 0.6  # side of the tiles that are searched for small faces, as a fraction of the shorter side
RIGHT_CORNER, LEFT_CORNER = 33, 263  # outer corners of the eyes, in the mesh


@dataclass(frozen=True)
class FaceNets:
    """The two nets, in OpenCV. They take milliseconds on the CPU, so a graphics card would not pay off."""

    detector: Any
    mesh: Any


@dataclass(frozen=True)
class Frame:
    """A rotated square in an image: its centre and side in pixels, its angle in radians."""

    x: float
    y: float
    side: float
    angle: float

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Converts points (n, 2), 0..1 across the frame, to pixels of the image."""
        across, down = ((points - 0.5) * self.side).T
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.stack([self.x + across * cos - down * sin, self.y + across * sin + down * cos], 1)

    def cut(self, image: np.ndarray, side: int) -> np.ndarray:
        """The content of the frame, uint8 (side, side, 3), black beyond the image."""
        import cv2

        corners = self.to_image(np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])).astype(np.float32)
        there = np.array([(0, 0), (side, 0), (0, side)], np.float32)
        shrunk = cv2.getAffineTransform(corners - 0.5, there - 0.5)  # coordinates refer to pixel centres
        return cv2.warpAffine(image, shrunk, (side, side), flags=cv2.INTER_LINEAR)


def load(place: Path, device: str) -> FaceNets:
    """Reads both nets from a folder. Raises ValueError if one is missing."""
    return FaceNets(_read(place, DETECTOR_FILE), _read(place, MESH_FILE))


def face(image: np.ndarray, *, model: str, sure: float, people: int) -> np.ndarray:
    """All faces as coloured lines on black. RGB uint8 (h, w, 3) in and out."""
    return face_parts.draw(faces(image, model, sure, people), image.shape[:2])


def faces(image: np.ndarray, model: str, sure: float, people: int) -> list[np.ndarray]:
    """The mesh of each face, (468, 2) x and y in pixels, the most confident first."""
    nets = weights.loaded(MODEL, model)
    found = []
    for frame in detected(nets.detector, image, sure)[:people]:
        points, certainty = _mesh(nets.mesh, image, frame)
        if certainty >= sure:
            found.append(_mesh(nets.mesh, image, frame_around(points))[0])  # more exact in a frame from the first mesh
    return found


def detected(detector: Any, image: np.ndarray, sure: float) -> list[Frame]:
    """Squares around the faces, rotated until the eyes are level, the most confident first. Also searches tiles."""
    height, width = image.shape[:2]
    part = _TILE * min(height, width)
    views = [Frame(width / 2, height / 2, float(max(height, width)), 0.0)]
    columns, rows = (max(2, int(np.ceil(length / part))) for length in (width, height))
    views += [
        Frame(float(x), float(y), part, 0.0)
        for x in np.linspace(part / 2, width - part / 2, columns)
        for y in np.linspace(part / 2, height - part / 2, rows)
    ]
    boxes, eyes, scores = [], [], []
    for view in views:
        for box, points, score in zip(*_raw(detector, view.cut(image, _DETECTOR_SIDE)), strict=True):
            if score >= max(sure, 0.05):  # hundreds of predictions below are noise
                boxes.append(view.to_image(box.reshape(2, 2)).ravel())
                eyes.append(view.to_image(points))
                scores.append(float(score))
    kept: list[int] = []
    for place in np.argsort(scores)[::-1]:
        if all(overlap(boxes[place], boxes[other]) < _SAME for other in kept):
            kept.append(int(place))
    return [_upright(boxes[place], *eyes[place]) for place in kept]


def face_adherence(wanted: np.ndarray, got_image: np.ndarray, *, model: str, sure: float, people: int) -> float:
    """F1 of the lines of the drawn image's faces and the map, for each part, within 1% of the side: 1 is perfect."""
    got = face(fit(got_image, wanted.shape[:2]), model=model, sure=sure, people=people)
    return edge_f1_by_colour(wanted, got, face_parts.COLOURS, max(2, round(0.01 * min(wanted.shape[:2]))))


def _read(place: Path, name: str) -> Any:
    import cv2

    readers: dict[str, Any] = {".tflite": cv2.dnn.readNetFromTFLite, ".onnx": cv2.dnn.readNetFromONNX}
    paths = sorted(path for path in place.rglob(f"{name}.*") if path.suffix in readers)
    if not paths:
        raise ValueError(f"it contains neither {name}.tflite nor {name}.onnx")
    return readers[paths[0].suffix](np.fromfile(paths[0], np.uint8))  # OpenCV cannot open paths with special letters


def _raw(detector: Any, view: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The detector's 896 predictions for a view (128, 128, 3): boxes (n, 4) and eyes (n, 2, 2) in 0..1, scores (n,).

    BlazeFace (Bazarevsky et al. 2019), a single-shot detector: offsets are in pixels from the centre of each cell.
    """
    detector.setInput(view.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    offsets, logits = (detector.forward(name) for name in ("regressors", "classificators"))
    centres = np.concatenate(
        [
            np.repeat(np.stack(np.meshgrid(*[(np.arange(cells) + 0.5) / cells] * 2), -1).reshape(-1, 2), guesses, 0)
            for cells, guesses in _GRIDS
        ]
    )
    offsets = offsets.reshape(len(centres), 8, 2) / _DETECTOR_SIDE
    middle, size = centres + offsets[:, 0], offsets[:, 1]
    boxes = np.concatenate([middle - size / 2, middle + size / 2], 1)
    return boxes, centres[:, None] + offsets[:, 2:4], _chance(logits.ravel())


def _mesh(net: Any, image: np.ndarray, frame: Frame) -> tuple[np.ndarray, float]:
    """The mesh (468, 2) in pixels of the image, and the net's confidence that there is a face."""
    net.setInput(frame.cut(image, _MESH_SIDE).astype(np.float32).transpose(2, 0, 1)[None] / 255)
    points, logit = (net.forward(name) for name in ("conv2d_21", "conv2d_31"))
    flat = points.reshape(face_parts.POINTS, 3)[:, :2] / _MESH_SIDE
    return frame.to_image(flat), float(_chance(logit.ravel())[0])


def _upright(box: np.ndarray, right_eye: np.ndarray, left_eye: np.ndarray) -> Frame:
    """The square around a box, rotated until the eyes are level."""
    across, down = left_eye - right_eye
    side = max(box[2] - box[0], box[3] - box[1]) * _PADDING
    return Frame((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, float(side), float(np.arctan2(down, across)))


def frame_around(points: np.ndarray) -> Frame:
    """The square around a mesh, rotated until the eyes are level."""
    across, down = points[LEFT_CORNER] - points[RIGHT_CORNER]
    angle = float(np.arctan2(down, across))
    turned = points @ np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    low, high = turned.min(0), turned.max(0)
    x, y = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))]) @ ((low + high) / 2)
    return Frame(float(x), float(y), float((high - low).max()) * _PADDING, angle)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    both = float(np.prod(np.maximum(high - low, 0)))
    whole = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - both
    return both / whole if whole > 0 else 0.0


def _chance(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -80, 80)))
