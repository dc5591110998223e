"""How long one live preview takes, for every type without weights, at 512 px.

    python -m benchmarks.preview

The clock's milliseconds, and the processor's, which other programs' load changes little. It counts what a move of a
slider costs: the map and its statistics (the photograph is read before, and encoding for the page is not counted).
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from PIL import Image

from engine.conditions import registry
from engine.data.map_preview import MapPreview, preview

AIM = 150.0  # milliseconds


def photograph() -> np.ndarray:
    """512 x 512 RGB."""
    from skimage import data

    return np.asarray(Image.fromarray(data.coffee()).resize((512, 512), Image.Resampling.LANCZOS))


def milliseconds(name: str, image: np.ndarray, rounds: int) -> tuple[float, float]:
    """Median of ``rounds`` previews with default parameters: of the clock, of the processor."""
    kind = registry.get(name)
    values, times = kind.resolve({}), []
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        shown: MapPreview = preview(kind, image, values)
        assert shown.map.shape == image.shape
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    clock, processor = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
    return clock, processor


def main() -> None:
    image = photograph()
    print(f"| type | ms (aim: under {AIM:.0f}) | of the processor |\n|---|---|---|")
    for kind in registry.all():
        if kind.live and kind.extract:
            milliseconds(kind.name, image, 1)  # libraries are loaded
            clock, processor = milliseconds(kind.name, image, 9)
            print(f"| {kind.title} | {clock:.0f} | {processor:.0f} |", flush=True)


if __name__ == "__main__":
    main()
