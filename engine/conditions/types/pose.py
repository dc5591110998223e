"""Poses of people, in OpenPose's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import model_inputs, weights
from engine.conditions.declaration import ConditionType, Parameter, RequiredModel
from engine.conditions.metrics import edge_f1_by_colour, fit
from engine.conditions.types import skeleton

MODEL = RequiredModel(
    id="usyd-community/vitpose-base-simple",
    megabytes=344,
    licence="Apache-2.0",
    load="engine.conditions.types.pose:load",
)
DETECTOR = RequiredModel(
    id="PekingU/rtdetr_r50vd_coco_o365",
    megabytes=172,
    licence="Apache-2.0",
    load="engine.conditions.types.pose:load_detector",
    parameter="detector",
)
POSE = ConditionType(
    name="pose",
    title="Pose (OpenPose colours)",
    teaches="Bodies: coloured limbs show where people are and how they pose. Clothes, faces and surroundings are free.",
    parameters=(
        Parameter(
            "model", "Pose model", "text", "",
            hint="Empty: ViTPose Base. Or a folder, or the Hugging Face id of a ViTPose model with COCO's 17 points.",
        ),
        Parameter(
            "detector", "Person detector", "text", "",
            hint="Empty: RT-DETR R50. Or another object detector that detects people.",
        ),
        Parameter("sure", "Confidence", "float", 0.3, 0.0, 1.0, 0.05, hint="Higher values leave out doubtful joints."),
        Parameter("people", "Maximum number", "int", 10, 1, 50, 1, hint="People per image, most confident ones first."),
    ),
    extract="engine.conditions.types.pose:pose",
    batch="engine.conditions.types.pose:pose_batch",
    metric="engine.conditions.types.pose:pose_adherence",
    models=(MODEL, DETECTOR),
)  # fmt: skip
_CROP = (256, 192)  # input size of ViTPose (height, width) in pixels
_PADDING = 1.25  # of a person's box, as in the training of ViTPose
_MIN_PERSON_SCORE = 0.5
_BATCH = 64  # people


def load(place: Path, device: str) -> Any:
    """Loads a ViTPose model of transformers."""
    from transformers import VitPoseForPoseEstimation

    return VitPoseForPoseEstimation.from_pretrained(place, local_files_only=True).to(device).eval()


def load_detector(place: Path, device: str) -> Any:
    """(model, preprocessing, index of the class person) of an object detector of transformers."""
    from transformers import AutoModelForObjectDetection

    model = AutoModelForObjectDetection.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    model = model.to(device).eval()
    names = {str(name).lower(): int(number) for number, name in model.config.id2label.items()}
    return model, model_inputs.read_preprocessing(place, 640), names.get("person", 0)


def pose(image: np.ndarray, *, model: str, detector: str, sure: float, people: int) -> np.ndarray:
    """All people as coloured limbs on black. RGB uint8 (h, w, 3) in and out."""
    return pose_batch([image], model=model, detector=detector, sure=sure, people=people)[0]


def pose_batch(images: list[np.ndarray], *, model: str, detector: str, sure: float, people: int) -> list[np.ndarray]:
    """``pose`` for many images: detects the people in all of them, then estimates all poses in batches."""
    boxes = persons(images, detector, people)
    crops = [(place, box) for place, found in enumerate(boxes) for box in found]
    bodies: list[list[np.ndarray]] = [[] for _ in images]
    for start in range(0, len(crops), _BATCH):
        part = crops[start : start + _BATCH]
        heat = _heatmaps([cropped(images[place], box) for place, box in part], model)
        for (place, box), maps in zip(part, heat, strict=True):
            bodies[place].append(skeleton.from_coco(*decoded(maps, box), sure))
    return [skeleton.draw(found, image.shape[:2]) for found, image in zip(bodies, images, strict=True)]


def persons(images: list[np.ndarray], detector: str, most: int) -> list[np.ndarray]:
    """The boxes of the people in each image, (n, 4) x0, y0, x1, y1 in pixels, the most confident first."""
    import torch

    net, how, person = weights.loaded(DETECTOR, detector)
    found: list[Any] = [None] * len(images)
    with torch.inference_mode():
        for members, pixels in model_inputs.preprocess(images, how):
            out = net(pixel_values=pixels)
            logits = out.logits.float()
            # DETR has an extra class "nothing" and a softmax. RT-DETR scores each class independently.
            chosen = logits.softmax(-1) if logits.shape[-1] > net.config.num_labels else logits.sigmoid()
            for place, scores, boxes in zip(
                members, chosen[..., person].cpu(), out.pred_boxes.float().cpu(), strict=True
            ):
                order = scores.argsort(descending=True)[:most]
                kept = boxes[order[scores[order] >= _MIN_PERSON_SCORE]].numpy()
                height, width = images[place].shape[:2]
                low, high = kept[:, :2] - kept[:, 2:] / 2, kept[:, :2] + kept[:, 2:] / 2
                found[place] = np.concatenate([low, high], 1) * np.array([width, height, width, height])
    return found


def frame(box: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, width and height, in pixels, of the crop of a person for ViTPose: padded, with aspect ratio 3 : 4."""
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    aspect = _CROP[1] / _CROP[0]
    width, height = max(width, height * aspect) * _PADDING, max(height, width / aspect) * _PADDING
    return (box[0] + box[2] - width) / 2, (box[1] + box[3] - height) / 2, width, height


def decoded(maps: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Converts heat maps (17, h, w) to points (17, 2), x and y in pixels of the image, and their confidence (17,).

    The peak is refined by a parabola through the logarithms of its neighbours, which is exact for a Gaussian (DARK,
    Zhang et al. 2020, along each axis). The corner pixels of crop and heat map coincide (unbiased, Huang et al. 2020).
    """
    left, top, width, height = frame(box)
    points, sure = np.zeros((len(maps), 2)), np.zeros(len(maps))
    for number, heat in enumerate(maps):
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        sure[number] = heat[row, column]
        x = column + _beside(heat[row], int(column))
        y = row + _beside(heat[:, column], int(row))
        points[number] = (left + x * width / (heat.shape[1] - 1), top + y * height / (heat.shape[0] - 1))
    return points, sure


def pose_adherence(
    wanted: np.ndarray, got_image: np.ndarray, *, model: str, detector: str, sure: float, people: int
) -> float:
    """F1 of the drawn image's limbs and the map, for each colour, within 2% of the side: 0 is chance, 1 perfect."""
    drawn = fit(got_image, wanted.shape[:2])
    got = pose(drawn, model=model, detector=detector, sure=sure, people=people)
    palette = skeleton.JOINTS[: len(skeleton.LIMBS)]
    return edge_f1_by_colour(wanted, got, palette, max(2, round(0.02 * min(wanted.shape[:2]))))


def cropped(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    import cv2

    left, top, width, height = frame(box)
    back = np.array([[width / (_CROP[1] - 1), 0, left], [0, height / (_CROP[0] - 1), top]])
    return cv2.warpAffine(image, back, _CROP[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _heatmaps(crops: list[np.ndarray], model: str) -> np.ndarray:
    import torch

    net = weights.loaded(MODEL, model)
    how = model_inputs.Preprocessing(_CROP, False, 1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.inference_mode():
        ((_, pixels),) = model_inputs.preprocess(crops, how)
        return net(pixel_values=pixels).heatmaps.float().cpu().numpy()


def _beside(line: np.ndarray, peak: int) -> float:
    """Offset of the true peak from the largest pixel, -0.5 to 0.5."""
    if not 0 < peak < len(line) - 1:
        return 0.0
    before, at, after = np.log(np.maximum(line[peak - 1 : peak + 2].astype(np.float64), 1e-10))
    bend = before - 2 * at + after
    return float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0
