"""How fast a large folder is indexed, in how much memory, and how fast it opens the second time.

    python benchmarks/index.py [--count 100000] [--folder FOLDER]

Makes the folder of small JPEG files first (50 different images under many names, a thousand to a folder).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from engine.data.dataset import Dataset  # noqa: E402
from engine.data.importing import import_source  # noqa: E402
from engine.data.scan import recognize_folder  # noqa: E402
from engine.workspace.paths import Workspace  # noqa: E402

DIFFERENT, A_FOLDER = 50, 1000


def fill(folder: Path, count: int) -> None:
    """``count`` JPEG files of 256 x 192, as hard links where the disk has them."""
    rng = np.random.default_rng(0)
    originals = []
    for number in range(DIFFERENT):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        path = folder / f"original-{number}.jpg"
        small.resize((256, 192), Image.Resampling.BICUBIC).save(path, quality=90)
        originals.append(path)
    for number in range(count):
        target = folder / f"{number // A_FOLDER:04}" / f"{number:07}.jpg"
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(originals[number % DIFFERENT], target)
        except OSError:  # no links on this disk, or too many
            shutil.copyfile(originals[number % DIFFERENT], target)
    for path in originals:
        path.unlink()


def peak_megabytes() -> float:
    """The most memory that this process has ever held."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def timed(what: str, work, count: int = 0):  # type: ignore[no-untyped-def]
    start, worked = time.perf_counter(), time.process_time()
    result = work()
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    rate = f", {count / seconds:,.0f} pictures/s" if count else ""
    print(f"{what:<30}{seconds:9.3f} s, processor {worked:8.3f} s, peak {peak_megabytes():4.0f} MB{rate}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {options.count:,} images"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        source = Path(place) / "pictures"
        source.mkdir()
        fill(source, options.count)
        workspace = Workspace(Path(place) / "workspace")
        timed("nothing yet", lambda: None)
        timed("list the folder", lambda: recognize_folder(source), options.count)
        result = timed("first scan", lambda: import_source(workspace, str(source)), options.count)
        assert result.pictures == options.count, result
        dataset = timed("open again", lambda: Dataset.open(result.folder))
        timed("first page of 24", lambda: dataset.page(0))
        timed("last page of 24", lambda: dataset.page(10**9))
        timed("second scan, nothing changed", lambda: import_source(workspace, str(source)), options.count)
        size = (Path(result.folder) / "index.sqlite").stat().st_size
        print(f"index.sqlite: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
