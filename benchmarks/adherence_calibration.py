"""What the adherence of known degradations is: the calibration table of docs/adherence.md.

    python -m benchmarks.adherence_calibration [--side 512] [--count 16]

Photographs stand for drawn images: through JPEG, in another texture, shifted, and another photograph in its place.
Each type's metric should put them in this order, with room between. The stand-in for maps without an extractor is
listed, too. "normalised" is A = (m - m_none) / (m_ref - m_none) with m_ref of the photograph itself.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from benchmarks.degradations import DEGREES, another, photographs
from engine.conditions import registry
from engine.evaluation.adherence import contour_agreement

TYPES = ("canny", "scribble", "lineart", "lines", "grey", "luminance", "light_dark", "tile", "colour_grid")
ANOTHER = "another image"


def calibrate(name: str, images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Scores of every image by the degree of its degradation, for a condition type or "likeness"."""
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
    for degree, spoil in DEGREES.items():
        spoilt = [spoil(image, number) for number, image in enumerate(images)]
        found[degree] = np.array([score(drawn) for score, drawn in zip(scores, spoilt, strict=True)])
    others = [another(images, number) for number in range(len(images))]
    found[ANOTHER] = np.array([score(drawn) for score, drawn in zip(scores, others, strict=True)])
    return found


def normalised(found: dict[str, np.ndarray]) -> dict[str, float]:
    """A of each degree, from means."""
    none, best = found[ANOTHER].mean(), found["itself"].mean()
    return {degree: float((values.mean() - none) / (best - none)) for degree, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--count", type=int, default=16)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    images = photographs(options.side, options.count)
    degrees = [*DEGREES, ANOTHER]
    print(f"| type | {' | '.join(degrees)} | normalised: {', '.join(DEGREES)} |\n|{'---|' * (len(degrees) + 2)}")
    for name in (*TYPES, "likeness"):
        found = calibrate(name, images)
        share = normalised(found)
        cells = " | ".join(f"{found[degree].mean():.2f}" for degree in degrees)
        print(f"| {name} | {cells} | {', '.join(f'{share[degree]:.2f}' for degree in DEGREES)} |", flush=True)


if __name__ == "__main__":
    main()
