"""Time and memory for indexing a large folder of images, and for opening the dataset again (docs/datasets.md).

    python benchmarks/index.py [--count 100000] [--folder FOLDER]

First it makes a folder of small JPEG files: 50 different images under many names, 1,000 files per subfolder.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from engine.data.dataset import Dataset  # noqa: E402
from engine.data.importing import import_source  # noqa: E402
from engine.data.recognized import recognize_folder  # noqa: E402
from engine.workspace.paths import Workspace  # noqa: E402

T = TypeVar("T")
DISTINCT, FILES_PER_FOLDER = 50, 1000


def fill(folder: Path, count: int) -> None:
    """Make ``count`` JPEG files of 256 x 192 px, as hard links if the disk supports them."""
    rng = np.random.default_rng(0)
    originals = []
    for number in range(DISTINCT):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        path = folder / f"original-{number}.jpg"
        small.resize((256, 192), Image.Resampling.BICUBIC).save(path, quality=90)
        originals.append(path)
    for number in range(count):
        target = folder / f"{number // FILES_PER_FOLDER:04}" / f"{number:07}.jpg"
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(originals[number % DISTINCT], target)
        except OSError:  # the disk has no hard links, or this file has too many
            shutil.copyfile(originals[number % DISTINCT], target)
    for path in originals:
        path.unlink()


def peak_megabytes() -> float:
    """Peak memory of this process so far."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def timed(title: str, work: Callable[[], T], count: int = 0) -> T:
    """Call ``work()``, print how long it took, and return its result. With ``count``, print images per second."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    rate = f", {count / clock:,.0f} images/s" if count else ""
    print(f"{title:<30}{clock:9.3f} s, processor {processor:8.3f} s, peak {peak_megabytes():4.0f} MB{rate}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to put the files; default: a temporary folder")
    options = parser.parse_args()
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {options.count:,} images"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        source = Path(root) / "pictures"
        source.mkdir()
        fill(source, options.count)
        workspace = Workspace(Path(root) / "workspace")
        timed("before the first file", lambda: None)
        timed("listing the files only", lambda: recognize_folder(source), options.count)
        result = timed("first scan", lambda: import_source(workspace, str(source)), options.count)
        assert result.pictures == options.count, result
        dataset = timed("opening it again", lambda: Dataset.open(result.folder))
        timed("first page of 24", lambda: dataset.page(0))
        timed("last page of 24", lambda: dataset.page(10**9))
        timed("second scan, nothing changed", lambda: import_source(workspace, str(source)), options.count)
        size = (Path(result.folder) / "index.sqlite").stat().st_size
        print(f"index.sqlite: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
