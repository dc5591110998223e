"""How long training waits for a checkpoint, and what checksums and flushes cost, for a net of a given size.

    python -m benchmarks.saving [--million 25] [--times 3]

No card is needed. A thread that runs small operations all the time simulates the thread that feeds a card; the
benchmark measures how much slower it is while another thread waits for the disk.

A virtual machine may have given its free memory back to its host, and getting it again takes several times as long as
writing to it. On such a machine, fill the memory with cached files first, by reading large files. For the same reason
nothing is deleted before the end: the disk needs space for 3 * TIMES + 1 checkpoints. Results: docs/performance.md,
docs/reliability.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file

from engine.disk import durable
from engine.runs.checkpoints import verify_files
from engine.training import checkpoint


class Net(torch.nn.Module):
    """Weights only. It has what ``stage_checkpoint`` asks of a run's trainable."""

    def __init__(self, million: float) -> None:
        super().__init__()
        rows = max(1, round(million * 1e6 / 1024 / 8))
        self.parts = torch.nn.ParameterList([torch.randn(rows, 1024) for _ in range(8)])

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        target = folder / "controlnet"
        target.mkdir()
        save_file(self.state_dict(), target / "weights.safetensors")
        yield target

    def checkpoint_bytes(self, average: bool) -> int:
        """The weights and AdamW's two moments, all fp32."""
        return 3 * 4 * sum(weight.numel() for weight in self.parameters())


def measure(action: Callable[[Path], Any], times: int, folder: Path) -> tuple[float, float]:
    """Median processor seconds and wall-clock seconds of ``action(new folder)``."""
    processor, wall = [], []
    for number in range(times):
        place = folder / f"{number}-{time.monotonic_ns()}"
        place.mkdir()
        began, ticks = time.perf_counter(), time.process_time()
        action(place)
        processor.append(time.process_time() - ticks)
        wall.append(time.perf_counter() - began)
    return statistics.median(processor), statistics.median(wall)


def operations_per_second(seconds: float = 0.0, until: Future[Any] | None = None) -> float:
    """Small operations per second of this thread, over ``seconds`` or until a future is done."""
    small, count, began = torch.ones(64, 64), 0, time.perf_counter()
    while not until.done() if until is not None else time.perf_counter() < began + seconds:
        small.add_(1).mul_(0.5)
        count += 1
    return count / (time.perf_counter() - began)


def in_background(stage: Callable[[Path], Callable[[], Any]], times: int, folder: Path) -> tuple[float, float, float]:
    """Measure a checkpoint that is finished by another thread.

    Returns:
        Medians: seconds that training waits; seconds from then on until the disk has everything; the fraction by which
        the training thread is slower meanwhile.
    """
    torch.set_num_threads(1)
    waits, flushes, slower = [], [], []
    with ThreadPoolExecutor(1) as thread:
        for number in range(times):
            place = folder / f"background-{number}"
            place.mkdir()
            alone = operations_per_second(1.0)
            began = time.perf_counter()
            finish = stage(place)
            waits.append(time.perf_counter() - began)
            finished = thread.submit(finish)
            meanwhile = operations_per_second(until=finished)
            finished.result()
            flushes.append(time.perf_counter() - began - waits[-1])
            slower.append(1 - meanwhile / alone)
    return statistics.median(waits), statistics.median(flushes), statistics.median(slower)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", type=float, default=25, help="millions of weights; SD 1.5's ControlNet has 361")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    net: Any = Net(options.million)
    optimizer = torch.optim.AdamW(net.parameters(), foreach=False)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()

    def stage(place: Path) -> Callable[[], Any]:
        return checkpoint.stage_checkpoint(place, 1, 1, net, None, optimizer, None, {})

    def save(place: Path) -> None:
        stage(place)()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = folder / "first"
        first.mkdir()
        last = stage(first)().folder
        size = sum(path.stat().st_size for path in last.rglob("*") if path.is_file())
        waits, flush, slower = in_background(stage, options.times, folder)
        whole = measure(save, options.times, folder)
        verified = measure(lambda place: verify_files(last), options.times, folder)
        with patch.object(durable, "seal", lambda path: ""):
            plain = measure(save, options.times, folder)
    gib = size / 2**30
    print(f"A checkpoint of {gib:.2f} GiB:")
    print(f"  training waits {waits:.2f} s")
    print(f"  then another thread waits for the disk {flush:.2f} s")
    print(f"  meanwhile the thread that feeds a card is slower by {slower:.0%}")
    print(f"  total time lost {waits + flush * max(0.0, slower):.2f} s")
    print("Processor seconds, and seconds:")
    titles = ("written and waited for, with checksums and flushes", "written, without", "verified before it is used")
    for title, (processor, wall) in zip(titles, (whole, plain, verified), strict=True):
        print(f"  {title:<52} {processor:6.2f} {wall:7.2f}")
    print(f"  checksums and flushes cost {(whole[0] - plain[0]) / gib:.2f} processor seconds per GiB written,")
    print(f"  verifying {verified[0] / gib:.2f} per GiB read.")


if __name__ == "__main__":
    main()
