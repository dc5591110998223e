"""Speed of making Canny maps at 512 px, compared with a plain cv2 loop, in images per second on one core.

    python -m benchmarks.conditions

All sides read the same JPEGs, scale the shorter side to 512 px, run Canny and write lossless PNG files. The loop runs
twice: with cv2.imwrite's default PNG (8 bits per pixel) and with the PNG that the app writes (1 bit, run-length
strategy). The sides alternate, so that other load on the machine affects all of them equally. The figures are processor
time, which depends little on other load, with wall-clock time in parentheses.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from engine.data.dataset import Dataset
from engine.data.make_maps import make_all
from engine.data.scan import scan_folder
from engine.workspace.paths import Workspace

SIDE = 512
NAMES = ("astronaut", "coffee", "chelsea", "rocket")


def photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write ``count`` JPEG files of ``size`` (width, height): random crops of scikit-image's photographs."""
    from skimage import data

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in NAMES]
    for number in range(count):
        source = sources[number % len(sources)]
        width, height = (rng.uniform(0.7, 1.0, 2) * source.size).astype(int)
        left, top = (int(rng.integers(0, a - b + 1)) for a, b in zip(source.size, (width, height), strict=True))
        part = source.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
        part.save(folder / f"{number:04}.jpg", quality=92)


ONE_BIT = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]


def plain_loop(folder: Path, target: Path, png_options: list[int]) -> None:
    """Make Canny maps with nothing but cv2."""
    target.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        image: Any = cv2.imread(str(path))
        scale = SIDE / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        edges = cv2.Canny(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), 100, 200)
        cv2.imwrite(str(target / f"{path.stem}.png"), edges, png_options)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds and wall-clock seconds of ``work()``."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def compare(count: int, rounds: int, size: tuple[int, int], root: Path) -> list[str]:
    """The cells of one table row: median images per second of the app and both loops, and the ratios of app to loop."""
    photographs(root / "photos", count, size)
    dataset = Dataset.create(Workspace(root / "workspace"), "set", scan_folder(root / "photos"))

    def ours() -> None:
        shutil.rmtree(dataset.folder / "conditions", ignore_errors=True)
        assert make_all(dataset, "canny", workers=1, resolution=SIDE).made == count

    def loop(png_options: list[int]) -> None:
        shutil.rmtree(root / "loop", ignore_errors=True)
        plain_loop(root / "photos", root / "loop", png_options)

    sides = [ours, lambda: loop([]), lambda: loop(ONE_BIT)]
    times = [[timed(side) for side in sides] for _ in range(rounds)]
    rates = [[count / statistics.median(row[side][kind] for row in times) for kind in (0, 1)] for side in range(3)]
    ratios = [statistics.median(row[side][0] / row[0][0] for row in times) for side in (1, 2)]
    cells = [f"{cpu:.0f} ({clock:.0f} by the clock)" for cpu, clock in rates]
    return [cells[0], cells[1], f"{ratios[0]:.2f}", cells[2], f"{ratios[1]:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    load = f"; load {os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else ""
    print(f"{options.count} images, {options.rounds} rounds, {os.cpu_count()} cores{load}")
    print("| photographs | make all, /s | cv2 loop, 8-bit PNG, /s | ratio | cv2 loop, 1-bit PNG, /s | ratio |")
    print("|---|---|---|---|---|---|")
    for size in ((768, 576), (1024, 768), (3000, 2000)):
        with tempfile.TemporaryDirectory() as folder:
            count = options.count if size[0] < 2000 else max(8, options.count // 5)
            cells = compare(count, options.rounds, size, Path(folder))
        print(f"| {size[0]} x {size[1]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
