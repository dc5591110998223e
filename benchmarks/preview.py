"""How long one live preview takes, for every type without weights, at 512 px.

    python -m benchmarks.preview

Counts what a move of a slider costs: the map, its statistics and the two pictures that the slider shows (the photograph
is read before, as on the tab).
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from PIL import Image

from engine.conditions import registry
from engine.conditions.preview import Shown, preview

AIM = 150.0  # milliseconds


def photograph() -> np.ndarray:
    """512 x 512 RGB."""
    from skimage import data

    return np.asarray(Image.fromarray(data.coffee()).resize((512, 512), Image.Resampling.LANCZOS))


def milliseconds(name: str, picture: np.ndarray, rounds: int) -> float:
    """Median of ``rounds`` previews with default parameters."""
    kind = registry.get(name)
    values, times = kind.resolve({}), []
    for _ in range(rounds):
        start = time.perf_counter()
        shown: Shown = preview(kind, picture, values)
        assert shown.map.shape == picture.shape
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def main() -> None:
    picture = photograph()
    print(f"| type | ms (aim: under {AIM:.0f}) |\n|---|---|")
    for kind in registry.all():
        if kind.live and kind.extract:
            milliseconds(kind.name, picture, 1)  # libraries are loaded
            print(f"| {kind.title} | {milliseconds(kind.name, picture, 9):.0f} |", flush=True)


if __name__ == "__main__":
    main()
