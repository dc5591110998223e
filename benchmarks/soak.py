"""Soak test: does memory, or anything else, grow during a long run in the window? (docs/reliability.md)

    python -m benchmarks.soak --out OUT                     # 20,000 steps: 7 minutes on two idle cores
    python -m benchmarks.soak --figures OUT/samples.csv     # prints the table of an earlier run again

Starts the real app in its own process and a real Chromium with the Train tab open, and trains on a tiny random base
with preview images, loss checks, checkpoints, and a pause and resume every few minutes. Every few seconds it appends a
row to samples.csv: memory, open files and threads of the app; memory, page objects and processor time of the browser;
the step. At the end it fits a straight line to each column, with an interval that allows for correlated samples.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from engine.config import RunConfig
from engine.config.presets import resolve
from engine.demo.sets import demo_preset, make_demo_set
from engine.runs.run import Run
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace
from tests import tiny_bases
from tests.browser.studio import Studio, browser_page, open_tab, studio

IMAGES = 64
EVERY = 3.0  # seconds between two samples
BLOCKS = 24  # of samples, whose means are fitted
WARM_UP = 0.15  # fraction of the samples that is left out: libraries load, caches fill
SMALL: dict[str, Any] = tiny_bases.UNET | {
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "mid_block_type": "UNetMidBlock2D",
    "norm_num_groups": 4,
}
"""A UNet with a third of the tiny base's operations: this test needs many steps, not large ones."""
COLUMNS = {
    "app_mb": "app, resident memory (MB)",
    "app_own_mb": "app, memory of its own (MB)",
    "app_files": "app, open files and sockets",
    "app_threads": "app, threads",
    "renderer_mb": "page, memory of its process (MB)",
    "browser_mb": "browser, memory of all its processes (MB)",
    "heap_mb": "page, JavaScript heap (MB)",
    "nodes": "page, DOM nodes",
    "listeners": "page, event listeners",
    "browser_cpu": "browser, share of one core (%)",
    "app_cpu": "app, share of one core (%)",
    "step_ms": "a step, by the clock (ms)",
    "step_cpu_ms": "a step, of the app's processor time (ms)",
}


def soak_config(base: Path, dataset: str, steps: int) -> RunConfig:
    """The demo's settings at the smallest size, with previews and checks at the usual intervals of a long run."""
    config, _ = resolve(
        ("demo", demo_preset().values),
        (
            "soak",
            {
                "name": "soak",
                "model": {"base": str(base)},
                "data": {"dataset": dataset, "resolution": 64, "held_out": 4},
                "train": {"steps": steps, "batch_size": 1, "checkpoint_every": 500, "keep_checkpoints": 3},
                "validation": {"every": 500, "pictures": 2, "sampling_steps": 4, "check_every": 50},
            },
        ),
    )
    return config


def prepare(folder: Path, steps: int) -> tuple[Workspace, Run]:
    """Make a workspace with a run that has not started."""
    base, work = folder / "base", folder / "work"
    base.mkdir(parents=True)
    work.mkdir()
    tiny_bases.build(base, work, SMALL, {})
    workspace = Workspace(folder / "workspace")
    dataset = make_demo_set(workspace, count=IMAGES)
    return workspace, create_run(workspace, soak_config(base, dataset.name, steps), {})


def browser_processes() -> list[psutil.Process]:
    """The Chromium processes that descend from this one."""
    return [p for p in psutil.Process().children(recursive=True) if "chrom" in p.name().lower()]


def own_memory(process: psutil.Process) -> float:
    """Bytes that would be freed if the process ended (USS: without shared pages)."""
    return float(process.memory_full_info().uss)


class Watcher:
    """Writes samples of the app, the browser and the run to samples.csv."""

    def __init__(self, app: Studio, page: Any, run: Run, out: Path) -> None:
        self.app, self.run = psutil.Process(app.process.pid), run
        self.devtools = page.context.new_cdp_session(page)
        self.devtools.send("Performance.enable")
        self.file = (out / "samples.csv").open("w", encoding="utf-8", newline="")
        self.table = csv.DictWriter(self.file, ["seconds", "phase", "step", *COLUMNS])
        self.table.writeheader()
        self.began = time.monotonic()
        self._before: tuple[float, float, float] | None = None
        self._read = 0
        self.step, self._step_ms = 0, 0.0

    def close(self) -> None:
        self.file.close()

    def sample(self, phase: str) -> None:
        """Write one row. The first call of a phase writes none: processor time needs two readings."""
        before_step = self.step
        self._read_steps()
        processes = browser_processes()
        renderers = [p for p in processes if "--type=renderer" in p.cmdline()]
        now = time.monotonic(), sum(_cpu(p) for p in processes), _cpu(self.app)
        before, self._before = self._before, now
        if before is None:
            return
        figures = {f["name"]: f["value"] for f in self.devtools.send("Performance.getMetrics")["metrics"]}
        passed = now[0] - before[0]
        files = self.app.num_handles() if psutil.WINDOWS else self.app.num_fds()
        self.table.writerow(
            {
                "seconds": round(now[0] - self.began, 1),
                "phase": phase,
                "step": self.step,
                "app_mb": round(self.app.memory_info().rss / 1e6, 2),
                "app_own_mb": round(own_memory(self.app) / 1e6, 2),
                "app_files": files,
                "app_threads": self.app.num_threads(),
                "renderer_mb": round(max(map(own_memory, renderers), default=0) / 1e6, 2),
                "browser_mb": round(sum(map(own_memory, processes)) / 1e6, 2),
                "heap_mb": round(figures["JSHeapUsedSize"] / 1e6, 3),
                "nodes": int(figures["Nodes"]),
                "listeners": int(figures["JSEventListeners"]),
                "browser_cpu": round(100 * (now[1] - before[1]) / passed, 2),
                "app_cpu": round(100 * (now[2] - before[2]) / passed, 2),
                "step_ms": round(self._step_ms, 3),
                "step_cpu_ms": round(1000 * (now[2] - before[2]) / max(1, self.step - before_step), 3),
            }
        )
        self.file.flush()

    def new_phase(self) -> None:
        self._before = None

    def _read_steps(self) -> None:
        """Read the newest step, and the median duration of those since the last call."""
        path = self.run.folder / "metrics.jsonl"
        if not path.exists():
            return
        if path.stat().st_size < self._read:  # a resume has rewritten the file
            self._read = 0
        with path.open("rb") as file:
            file.seek(self._read)
            lines = file.read().split(b"\n")
        self._read += sum(len(line) + 1 for line in lines[:-1])
        seen = [json.loads(line) for line in lines[:-1] if b'"seconds"' in line]
        seen = [entry for entry in seen if entry["step"] > self.step]
        if seen:
            self.step = seen[-1]["step"]
            self._step_ms = 1000 * float(np.median([entry["seconds"] for entry in seen]))


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def wait_for_status(page: Any, pattern: str, seconds: float = 120) -> None:
    """Wait until the status on the Train tab matches a regular expression."""
    page.locator("#train-status").filter(has_text=re.compile(pattern)).wait_for(timeout=seconds * 1000)


def soak(folder: Path, out: Path, steps: int, stretch: float, rest: float) -> Path:
    """Train to the end: ``stretch`` seconds of training and ``rest`` seconds of pause in turn. Returns samples.csv."""
    workspace, run = prepare(folder, steps)
    with studio(workspace.root) as app, browser_page() as page:
        page.goto(app.address)
        page.wait_for_selector("#status-line .status")
        open_tab(page, "Train")
        watcher = Watcher(app, page, run, out)
        try:
            for number in stretches(run, steps):
                page.locator("#train-resume:not([disabled])").click()
                wait_for_status(page, "Training: step|Making|Saving")
                watcher.new_phase()
                end = time.monotonic() + stretch
                while time.monotonic() < end and watcher.step < steps:
                    page.wait_for_timeout(1000 * EVERY)
                    watcher.sample("training")
                if watcher.step < steps:
                    page.locator("#train-pause:not([disabled])").click()
                    wait_for_status(page, "safe to close")
                else:
                    wait_for_status(page, "Finished")
                watcher.new_phase()
                end = time.monotonic() + rest
                while time.monotonic() < end:
                    page.wait_for_timeout(1000 * EVERY)
                    watcher.sample("paused")
                print(f"stretch {number}: step {watcher.step:,} of {steps:,}", flush=True)
        finally:
            watcher.close()
        assert page.locator("#problem").count() == 0, page.locator("#problem").inner_text()
        app.ask_to_end()
    return out / "samples.csv"


def stretches(run: Run, steps: int) -> Iterator[int]:
    """Yield 1, 2, ... until the run's last step is saved."""
    number = 0
    while run.last_step < steps:
        number += 1
        yield number


def slope(x: np.ndarray, y: np.ndarray, blocks: int = BLOCKS) -> tuple[float, float]:
    """Least-squares slope of y over x, and the half-width of its 95 % interval.

    Neighbouring samples are correlated. Therefore the means of ``blocks`` equal blocks are fitted, which are nearly
    independent, and the interval is Student's t with blocks - 2 degrees of freedom.
    """
    from scipy.stats import t

    count = min(blocks, len(x) // 2)
    if count < 4:
        raise ValueError(f"{len(x)} samples are too few for a slope.")
    xs = np.array([part.mean() for part in np.array_split(x, count)])
    ys = np.array([part.mean() for part in np.array_split(y, count)])
    centred = xs - xs.mean()
    rise = float((centred * ys).sum() / (centred**2).sum())
    residuals = ys - ys.mean() - rise * centred
    error = float(np.sqrt((residuals**2).sum() / (count - 2) / (centred**2).sum()))
    return rise, error * float(t.ppf(0.975, count - 2))


def figures(path: Path) -> str:
    """A Markdown table: medians during training, and the change over 1,000 steps with its interval."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "training"]
    rows = rows[round(WARM_UP * len(rows)) :]
    steps = np.array([float(row["step"]) for row in rows])
    lines = [
        f"Steps {steps[0]:,.0f} to {steps[-1]:,.0f}, {len(rows)} samples.",
        "",
        "| | median | first fifth | last fifth | change in 1,000 steps (95 %) |",
        "|---|---|---|---|---|",
    ]
    fifth = max(1, len(rows) // 5)
    for name, title in COLUMNS.items():
        values = np.array([float(row[name]) for row in rows])
        rise, half = slope(steps / 1000, values)
        first, last = np.median(values[:fifth]), np.median(values[-fifth:])
        lines.append(f"| {title} | {np.median(values):.4g} | {first:.4g} | {last:.4g} | {rise:+.3g} ± {half:.2g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--stretch", type=float, default=240, help="seconds of training before each pause")
    parser.add_argument("--rest", type=float, default=12, help="seconds of pause after it")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "soak")
    parser.add_argument("--figures", type=Path, help="only print the table of this samples.csv")
    options = parser.parse_args()
    path = options.figures
    if path is None:
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            path = soak(Path(folder), options.out, options.steps, options.stretch, options.rest)
    print(figures(path))


if __name__ == "__main__":
    main()
