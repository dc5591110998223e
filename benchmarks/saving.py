"""What a checkpoint's checksums and flushes cost: processor seconds and seconds, of a net of a given size.

python -m benchmarks.saving [--million 25] [--times 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine import durable
from engine.training import checkpoint
from engine.training.checkpoint_files import check_whole


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

    def save(place: Path) -> None:
        checkpoint.save_checkpoint(place, 1, 1, net, None, optimizer, None, {})

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = measure(save, options.times, folder)
        last = next(folder.glob("*/checkpoints/step-*"))
        size = sum(path.stat().st_size for path in last.rglob("*") if path.is_file())
        look = measure(lambda place: check_whole(last), options.times, folder)
        durable._seal = lambda path: ""
        plain = measure(save, options.times, folder)
    print(f"A checkpoint of {size / 2**30:.2f} GiB; processor seconds, and seconds:")
    for title, (busy, wall) in {"as it is": whole, "without checksums and flushes": plain, "looked at": look}.items():
        print(f"  {title:<30} {busy:6.2f} {wall:7.2f}")
    print(f"  a GiB costs {(whole[0] - plain[0]) / (size / 2**30):.2f} processor seconds more to write,")
    print(f"  and {look[0] / (size / 2**30):.2f} to look at before it is used.")


if __name__ == "__main__":
    main()
