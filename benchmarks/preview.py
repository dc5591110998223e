"""Time of one live preview at 512 px, for each condition type that needs no model (docs/conditions.md).

    python -m benchmarks.preview

Prints wall-clock and processor milliseconds; other load changes the latter little. The time covers one move of a
slider: making the map and its statistics, without reading the photograph and without encoding the image for the page.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from PIL import Image

from engine.conditions import registry
from engine.data.map_preview import MapPreview, preview

TARGET = 150.0  # milliseconds


def photograph() -> np.ndarray:
    """RGB uint8 (512, 512, 3)."""
    from skimage import data

    return np.asarray(Image.fromarray(data.coffee()).resize((512, 512), Image.Resampling.LANCZOS))


def milliseconds(name: str, image: np.ndarray, rounds: int) -> tuple[float, float]:
    """Median wall-clock and processor milliseconds of ``rounds`` previews with default parameters."""
    condition = registry.get(name)
    values, times = condition.resolve({}), []
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        shown: MapPreview = preview(condition, image, values)
        assert shown.map.shape == image.shape
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    clock, processor = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
    return clock, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    image = photograph()
    print(f"| type | ms (aim: under {TARGET:.0f}) | of the processor |\n|---|---|---|")
    for condition in registry.all():
        if condition.live and condition.extract:
            milliseconds(condition.name, image, 1)  # loads libraries
            clock, processor = milliseconds(condition.name, image, 9)
            print(f"| {condition.title} | {clock:.0f} | {processor:.0f} |", flush=True)


if __name__ == "__main__":
    main()
