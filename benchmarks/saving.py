"""How long training waits for a checkpoint, and what its checksums and flushes cost, of a net of a given size.

python -m benchmarks.saving [--million 25] [--times 3]

A card is not needed: the thread that gives it its work is stood in for by one that makes small things all the time, and
is asked how much less it makes while another thread waits for the disk.

A virtual machine may have given its free memory back to its host, and needs several times as long to get it again as to
write into it: there, let the system's cache of files fill the memory first (read large files). Nothing that is written
is removed before the end, for the same reason: there must be room for three times as many checkpoints and one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.disk import durable
from engine.runs.checkpoints import verify_files
from engine.training import checkpoint


class Net(torch.nn.Module):
    """Weights, and nothing that computes."""

    def __init__(self, million: float) -> None:
        super().__init__()
        rows = max(1, round(million * 1e6 / 1024 / 8))
        self.parts = torch.nn.ParameterList([torch.randn(rows, 1024) for _ in range(8)])

    def save_pretrained(self, folder: Path, **_: Any) -> None:
        folder.mkdir()
        save_file(self.state_dict(), folder / "weights.safetensors")


def measure(what: Callable[[Path], Any], times: int, folder: Path) -> tuple[float, float]:
    """Medians of processor seconds and of seconds."""
    busy, wall = [], []
    for number in range(times):
        place = folder / f"{number}-{time.monotonic_ns()}"
        place.mkdir()
        began, ticks = time.perf_counter(), time.process_time()
        what(place)
        busy.append(time.process_time() - ticks)
        wall.append(time.perf_counter() - began)
    return statistics.median(busy), statistics.median(wall)


def pace(seconds: float = 0.0, until: Future[Any] | None = None) -> float:
    """How often a second this thread makes a small thing, for so long or until something is done."""
    small, made, began = torch.ones(64, 64), 0, time.perf_counter()
    while not until.done() if until is not None else time.perf_counter() < began + seconds:
        small.add_(1).mul_(0.5)
        made += 1
    return made / (time.perf_counter() - began)


def behind(stage: Callable[[Path], Callable[[], Any]], times: int, folder: Path) -> tuple[float, float, float]:
    """Medians: seconds until training goes on, seconds until the disk has it, and the part of its pace lost between."""
    torch.set_num_threads(1)
    waits, rests, lost = [], [], []
    with ThreadPoolExecutor(1) as thread:
        for number in range(times):
            place = folder / f"behind-{number}"
            place.mkdir()
            quiet = pace(1.0)
            began = time.perf_counter()
            finish = stage(place)
            waits.append(time.perf_counter() - began)
            on_its_way = thread.submit(finish)
            beside = pace(until=on_its_way)
            on_its_way.result()
            rests.append(time.perf_counter() - began - waits[-1])
            lost.append(1 - beside / quiet)
    return statistics.median(waits), statistics.median(rests), statistics.median(lost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", type=float, default=25, help="weights; SD 1.5's ControlNet has 361")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    net = Net(options.million)
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
        waits, rest, lost = behind(stage, options.times, folder)
        whole = measure(save, options.times, folder)
        look = measure(lambda place: verify_files(last), options.times, folder)
        durable._seal = lambda path: ""
        plain = measure(save, options.times, folder)
    print(f"Training waits {waits:.2f} s; the disk takes {rest:.2f} s more, in which its thread is {lost:.0%} slower:")
    print(f"  {waits + rest * max(0.0, lost):.2f} s lost in all.")
    print(f"A checkpoint of {size / 2**30:.2f} GiB; processor seconds, and seconds:")
    for title, (busy, wall) in {"as it is": whole, "without checksums and flushes": plain, "looked at": look}.items():
        print(f"  {title:<30} {busy:6.2f} {wall:7.2f}")
    print(f"  a GiB costs {(whole[0] - plain[0]) / (size / 2**30):.2f} processor seconds more to write,")
    print(f"  and {look[0] / (size / 2**30):.2f} to look at before it is used.")


if __name__ == "__main__":
    main()
