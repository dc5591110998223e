"""Canny at 512 px: "make all maps" beside a bare cv2 loop, in pictures a second and core.

    python -m benchmarks.conditions

Both read the same JPEGs, bring the shorter side to 512 px, run Canny and write a lossless file, on one core. They take
turns, so that whatever else the machine does hits both alike. Time is the processor's own, which other programs' load
changes little; the clock's is told beside it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from engine.conditions.batch import make_all
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.workspace import Workspace

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


def bare(folder: Path, target: Path) -> None:
    """What a script of ten lines would do."""
    target.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        image = cv2.imread(str(path))
        scale = SIDE / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        edges = cv2.Canny(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), 100, 200)
        cv2.imwrite(str(target / f"{path.stem}.png"), edges)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor, and of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def compare(count: int, rounds: int, size: tuple[int, int], root: Path) -> tuple[list[float], list[float], float]:
    """Pictures a second of ours and of the bare loop (medians; processor, clock), and the ratio by processor."""
    photographs(root / "photos", count, size)
    dataset = Dataset.create(Workspace(root / "workspace"), "set", scan_folder(root / "photos"))
    ours, theirs = [], []
    for number in range(rounds):
        shutil.rmtree(dataset.folder / "conditions", ignore_errors=True)
        ours.append(timed(lambda: make_all(dataset, "canny", workers=1, resolution=SIDE)))
        theirs.append(timed(lambda number=number: bare(root / "photos", root / f"bare-{number}")))  # type: ignore[misc]
    rates = [[count / statistics.median(column) for column in zip(*rows, strict=True)] for rows in (ours, theirs)]
    ratio = statistics.median(b[0] / a[0] for a, b in zip(ours, theirs, strict=True))
    return rates[0], rates[1], ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print("| photographs | make all, /s | cv2 loop, /s | ratio |\n|---|---|---|---|")
    for size in ((768, 576), (1024, 768), (3000, 2000)):
        with tempfile.TemporaryDirectory() as folder:
            count = options.count if size[0] < 2000 else max(8, options.count // 5)
            ours, theirs, ratio = compare(count, options.rounds, size, Path(folder))
        cells = [f"{cpu:.0f} ({clock:.0f} by the clock)" for cpu, clock in (ours, theirs)]
        print(f"| {size[0]} x {size[1]} | {cells[0]} | {cells[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
