"""Canny at 512 px: "make all maps" beside a bare cv2 loop, in images a second and core.

    python -m benchmarks.conditions

All read the same JPEGs, bring the shorter side to 512 px, run Canny and write a lossless PNG, on one core. The loop
runs twice: with the PNG that cv2.imwrite makes when nothing else is said (eight bits a pixel), and with the one that
"make all" makes (one bit, run lengths). All take turns, so that whatever else the machine does hits them alike. Time is
the processor's own, which other programs' load changes little; the clock's is told beside it.
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
    """JPEGs of ``size`` (width, height), cut differently from scikit-image's photographs."""
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


def bare(folder: Path, target: Path, how: list[int]) -> None:
    """What a script of ten lines would do."""
    target.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        image = cv2.imread(str(path))
        scale = SIDE / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        edges = cv2.Canny(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), 100, 200)
        cv2.imwrite(str(target / f"{path.stem}.png"), edges, how)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor, and of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def compare(count: int, rounds: int, size: tuple[int, int], root: Path) -> list[str]:
    """Medians of images a second, of ours and both loops, and how ours stands to each loop by the processor."""
    photographs(root / "photos", count, size)
    dataset = Dataset.create(Workspace(root / "workspace"), "set", scan_folder(root / "photos"))

    def ours() -> None:
        shutil.rmtree(dataset.folder / "conditions", ignore_errors=True)
        assert make_all(dataset, "canny", workers=1, resolution=SIDE).made == count

    def loop(how: list[int]) -> None:
        shutil.rmtree(root / "bare", ignore_errors=True)
        bare(root / "photos", root / "bare", how)

    sides = [ours, lambda: loop([]), lambda: loop(ONE_BIT)]
    times = [[timed(side) for side in sides] for _ in range(rounds)]
    rates = [[count / statistics.median(row[side][kind] for row in times) for kind in (0, 1)] for side in range(3)]
    ratios = [statistics.median(row[side][0] / row[0][0] for row in times) for side in (1, 2)]
    told = [f"{cpu:.0f} ({clock:.0f} by the clock)" for cpu, clock in rates]
    return [told[0], told[1], f"{ratios[0]:.2f}", told[2], f"{ratios[1]:.2f}"]


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
