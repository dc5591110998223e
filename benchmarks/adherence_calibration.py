"""Adherence of photographs with known degradations: prints the calibration table of docs/adherence.md.

    python -m benchmarks.adherence_calibration [--side 512] [--count 16]

Degraded photographs replace drawn images: JPEG, another texture, warped, and a different photograph. The metric of each
condition type should rank them in this order, with clear gaps. "likeness" is the comparison of contours that is used
for types without a metric. "normalised" is A = (m - m_none) / (m_ref - m_none), where m_ref is the photograph's own
score and m_none that of a different photograph.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from benchmarks.degradations import DEGRADATIONS, another, photographs
from engine.conditions import registry
from engine.evaluation.adherence import contour_agreement

TYPES = ("canny", "scribble", "lineart", "lines", "grey", "luminance", "light_dark", "tile", "colour_grid")
ANOTHER = "another image"


def calibrate(name: str, images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Scores of all images, by degradation.

    Args:
        name: a condition type, or "likeness" for the comparison of contours.
        images: RGB uint8 (h, w, 3).
    """
    if name == "likeness":
        scores = [lambda drawn, own=image: contour_agreement(own, drawn) for image in images]
    else:
        condition = registry.get(name)
        values = registry.resolve_parameters(name, {})
        maps = [condition.extractor(image, **values) for image in images]
        metric = condition.scorer
        assert metric is not None, f"{name} has a metric"
        scores = [lambda drawn, map=map: float(metric(map, drawn, **values)) for map in maps]
    found = {"itself": np.array([score(image) for score, image in zip(scores, images, strict=True)])}
    for degradation, degrade in DEGRADATIONS.items():
        degraded = [degrade(image, number) for number, image in enumerate(images)]
        found[degradation] = np.array([score(drawn) for score, drawn in zip(scores, degraded, strict=True)])
    others = [another(images, number) for number in range(len(images))]
    found[ANOTHER] = np.array([score(drawn) for score, drawn in zip(scores, others, strict=True)])
    return found


def normalised(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Normalised adherence A of each degradation, from the means."""
    none, best = found[ANOTHER].mean(), found["itself"].mean()
    return {name: float((values.mean() - none) / (best - none)) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--count", type=int, default=16)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    images = photographs(options.side, options.count)
    columns = [*DEGRADATIONS, ANOTHER]
    print(f"| type | {' | '.join(columns)} | normalised: {', '.join(DEGRADATIONS)} |\n|{'---|' * (len(columns) + 2)}")
    for name in (*TYPES, "likeness"):
        found = calibrate(name, images)
        scaled = normalised(found)
        cells = " | ".join(f"{found[column].mean():.2f}" for column in columns)
        print(f"| {name} | {cells} | {', '.join(f'{scaled[column]:.2f}' for column in DEGRADATIONS)} |", flush=True)


if __name__ == "__main__":
    main()
