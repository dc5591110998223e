"""Seconds a step with one process and with several, one thread each, on this machine's processor.

    python -m benchmarks.processes [--processes 2] [--steps 30] [--rounds 3]

The demo's base and circles, 8 images a step. The rounds alternate, so that other work on the machine hits all alike.
Told are the medians of all steps but the first five of each run. Foreseen is what several would take if gradients
travelled in no time: the step of one process that has only its share of the images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from engine.demo.sets import make_demo_set
from engine.runs.run import Run
from engine.workspace.paths import APP_FOLDER, Workspace

IMAGES = 8
SETTLED = 5
SETTINGS = {
    "train.accumulation": 1, "train.precision": "fp32", "train.checkpoint_every": 1000,
    "optim.warmup_steps": 0, "validation.every": 0, "validation.check_every": 0,
}  # fmt: skip


def seconds(workspace: Workspace, dataset: str, processes: int, images: int, steps: int) -> list[float]:
    """Of each settled step of a new run with so many images a step in all."""
    values = {**SETTINGS, "train.batch_size": images, "train.steps": steps}
    pairs = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "engine.cli", "--workspace", str(workspace.root), "train", "--preset", "demo"]
    command += ["--dataset", dataset, *pairs, "--processes", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=APP_FOLDER, env=environment, check=True, stdout=subprocess.DEVNULL)
    entries = Run(workspace.run_folders()[0]).metrics()
    return [entry["seconds"] for entry in entries if "loss" in entry][SETTLED:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    count = options.processes
    if IMAGES % count:
        parser.error(f"{count} processes cannot share {IMAGES} images")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "workspace")
        dataset = make_demo_set(workspace, count=64)
        ways = {"alone": (1, IMAGES), "share": (1, IMAGES // count), "together": (count, IMAGES)}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, (processes, images) in ways.items():
                taken[way] += seconds(workspace, dataset.name, processes, images, options.steps)
    alone, share, together = (statistics.median(found) for found in taken.values())
    if hasattr(os, "getloadavg"):
        print(f"load of the machine: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")
    print(f"1 process: {alone:.3f} s a step, {IMAGES / alone:.1f} images a second")
    print(f"{count} processes: {together:.3f} s a step, {IMAGES / together:.1f} images a second")
    print(f"{alone / together:.2f} times as fast; foreseen {alone / share:.2f} ({share:.3f} s with its share alone)")


if __name__ == "__main__":
    main()
