"""Seconds per step with one process and with several, on the processor, with one thread each (docs/several-cards.md).

    python -m benchmarks.processes [--processes 2] [--steps 30] [--rounds 3]

Trains on the demo's base and circles with 8 images per step. The set-ups alternate, so that other load on the machine
affects all of them equally. The figures are medians over all steps but the first five of each run. The prediction
assumes that exchanging gradients takes no time: it is the step of one process with its part of the images only.
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
WARM_UP = 5  # steps of each run that are left out
SETTINGS = {
    "train.accumulation": 1,
    "train.precision": "fp32",
    "train.checkpoint_every": 1000,
    "optim.warmup_steps": 0,
    "validation.every": 0,
    "validation.check_every": 0,
}


def seconds(workspace: Workspace, dataset: str, processes: int, images: int, steps: int) -> list[float]:
    """Seconds of each step of a new run after the warm-up. ``images`` is the number per step, over all processes."""
    values = {**SETTINGS, "train.batch_size": images, "train.steps": steps}
    pairs = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "engine.cli", "--workspace", str(workspace.root), "train", "--preset", "demo"]
    command += ["--dataset", dataset, *pairs, "--processes", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=APP_FOLDER, env=environment, check=True, stdout=subprocess.DEVNULL)
    entries = Run(workspace.run_folders()[0]).metrics()
    return [entry["seconds"] for entry in entries if "loss" in entry][WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    count = options.processes
    if IMAGES % count:
        parser.error(f"{count} processes cannot split {IMAGES} images evenly")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "workspace")
        dataset = make_demo_set(workspace, count=64)
        setups = {"single": (1, IMAGES), "part": (1, IMAGES // count), "several": (count, IMAGES)}
        taken: dict[str, list[float]] = {name: [] for name in setups}
        for _ in range(options.rounds):
            for name, (processes, images) in setups.items():
                taken[name] += seconds(workspace, dataset.name, processes, images, options.steps)
    single, part, several = (statistics.median(found) for found in taken.values())
    if hasattr(os, "getloadavg"):
        print(f"load average: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")
    print(f"1 process: {single:.3f} s per step, {IMAGES / single:.1f} images/s")
    print(f"{count} processes: {several:.3f} s per step, {IMAGES / several:.1f} images/s")
    part_text = f"{part:.3f} s for one process with {IMAGES // count} images"
    print(f"{single / several:.2f} times as fast; predicted {single / part:.2f} ({part_text})")


if __name__ == "__main__":
    main()
