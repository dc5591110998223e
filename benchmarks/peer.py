"""Our training beside huggingface's ``train_controlnet.py`` itself: seconds a step, the script and ours in turn.

    python -m benchmarks.peer --script ~/diffusers/examples/controlnet/train_controlnet.py
    python -m benchmarks.peer --script .../train_controlnet.py --threads 1 2 --rounds 3 --steps 24
    python -m benchmarks.peer --script .../train_controlnet.py --shapes sd15 --precision bf16      (a card)

The script is not part of this project: fetch it from diffusers' repository, in the version that is installed or newer,
with what it asks for (``datasets``, ``torchvision``). It runs unchanged in a process of its own, and so does ours. Both
train on the same base, images, captions, precision, optimizer and number of threads. A step is timed from one log entry
of the script to the next, ours from one step's end to the next, both with all that a step needs: reading images, and
for the script its VAE and text encoder, whose results we cache. Each run's figure is the median of its steps after the
warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.step import our_step
from benchmarks.step_recipe import BATCH
from benchmarks.synthetic import IMAGES, SHAPES, make_base, make_images
from engine.machine.precision import DTYPES
from engine.workspace.paths import Workspace

OURS, SCRIPT, SMALL_CARD = "ours", "the script", "the script for small cards"
FLAGS = {
    SCRIPT: ["--train_batch_size", str(BATCH)],
    SMALL_CARD: ["--train_batch_size", "1", "--gradient_accumulation_steps", str(BATCH), "--gradient_checkpointing"],
}
"""The script's options of each variant; the second are those that its guide gives for small cards."""


def write_images_for_the_script(workspace: Workspace, resolution: int) -> Path:
    """The dataset of ``make_images`` in the layout that the script reads: a metadata.jsonl beside the images."""
    make_images(workspace, resolution)
    folder = workspace.root / f"pictures-{resolution}"
    rows = [
        {
            "file_name": f"images/{number:02d}.png",
            "conditioning_image_file_name": f"conditions/{number:02d}.png",
            "text": (folder / "images" / f"{number:02d}.txt").read_text(encoding="utf-8"),
        }
        for number in range(IMAGES)
    ]
    layout = workspace.root / f"script-{resolution}"
    for part in ("images", "conditions"):  # copied, since datasets follows no symbolic links
        shutil.copytree(folder / part, layout / part, dirs_exist_ok=True)
    (layout / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return layout


def script_arguments(options: argparse.Namespace, work: Path, base: Path, variant: str) -> list[str]:
    """The command line of the script."""
    workspace, shapes = Workspace(work), SHAPES[options.shapes]
    return [
        str(options.script),
        "--pretrained_model_name_or_path", str(base),
        "--train_data_dir", str(write_images_for_the_script(workspace, shapes.resolution)),
        "--cache_dir", str(work / "script-cache"),
        "--image_column", "image",
        "--conditioning_image_column", "conditioning_image",
        "--caption_column", "text",
        "--resolution", str(shapes.resolution),
        "--learning_rate", "1e-5",
        "--lr_warmup_steps", "0",
        "--mixed_precision", {"fp32": "no"}.get(options.precision, options.precision),
        "--max_train_steps", str(options.warm_up + options.steps),
        "--checkpointing_steps", "1000000",
        "--seed", "1",
        "--output_dir", str(work / "script-output"),
        *FLAGS[variant],
    ]  # fmt: skip


def time_the_script(arguments: list[str]) -> list[float]:
    """Run the script in this process. The times at which its optimizer steps were logged, in seconds."""
    from accelerate import Accelerator

    ends: dict[int, float] = {}
    log = Accelerator.log

    def note_the_time(self: Any, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
        log(self, values, step=step, **more)
        if step and self.sync_gradients:  # with accumulation, every micro-batch is logged
            ends[step] = time.perf_counter()

    Accelerator.log = note_the_time
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
    return list(ends.values())


def time_ours(options: argparse.Namespace, work: Path, base: Path) -> list[float]:
    """Take steps of a run of the app. The times at which they ended, in seconds."""
    on_card = torch.cuda.is_available()
    settings = SimpleNamespace(shapes=options.shapes, preset="", precision=options.precision, optimizer="")
    run = our_step(settings, Workspace(work), str(base), "ours")  # type: ignore[arg-type]
    ends = []
    for _ in range(options.warm_up + options.steps):
        loss = run.step()
        if on_card:
            float(loss)  # the script's progress bar waits for each loss, too
        ends.append(time.perf_counter())
    run.close()
    return ends


def measure(options: argparse.Namespace, work: Path, base: Path, variant: str) -> list[float]:
    """Seconds of each step after the warm-up, measured in this process."""
    if variant == OURS:
        ends = time_ours(options, work, base)
    else:
        ends = time_the_script(script_arguments(options, work, base, variant))
    return [after - before for before, after in zip(ends, ends[1:], strict=False)][options.warm_up - 1 :]


def in_a_process(options: argparse.Namespace, work: Path, variant: str, threads: int) -> float:
    """The median step of a variant with this many threads, in seconds, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peer", "--script", str(options.script), "--work", str(work)]
    command += ["--shapes", options.shapes, "--precision", options.precision, "--only", variant]
    command += ["--steps", str(options.steps), "--warm-up", str(options.warm_up)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = [line for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    if not found:
        raise SystemExit(f"{variant} failed:\n{done.stderr[-3000:]}")
    return statistics.median(json.loads(found[-1])["seconds"])


def row(threads: int, name: str, script: list[float], ours: list[float]) -> str:
    """One line of the table: medians over the rounds, and the smallest and largest ratio of one round."""
    ratios = sorted(theirs / mine for theirs, mine in zip(script, ours, strict=True))
    medians = f"{statistics.median(script):.3f} | {statistics.median(ours):.3f}"
    middle = statistics.median(ratios)
    return f"| {threads} | {name} | {medians} | {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True, help="train_controlnet.py of diffusers")
    parser.add_argument("--shapes", choices=SHAPES, default="mid")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="one comparison for each number")
    parser.add_argument("--steps", type=int, default=24, help="timed steps of each run")
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-small-card", action="store_true", help="without the recipe for small cards")
    parser.add_argument("--work", type=Path, help="folder for base, images and cache, kept for the next call")
    parser.add_argument("--only", choices=(OURS, *FLAGS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).absolute()
        shapes = SHAPES[options.shapes]
        base = make_base(work / f"base-{options.shapes}", shapes, torch.float32)
        make_images(Workspace(work), shapes.resolution)
        if options.only:
            print(json.dumps({"seconds": measure(options, work, base, options.only)}), flush=True)
            return
        scripts = [SCRIPT] if options.without_small_card else [SCRIPT, SMALL_CARD]
        lines = [
            "| threads | beside | script, s/step | ours, s/step | ours is x times as fast |",
            "|---|---|---|---|---|",
        ]
        for threads in options.threads:
            found: dict[str, list[float]] = {name: [] for name in (*scripts, OURS)}
            for number in range(options.rounds):
                for name, seconds in found.items():
                    seconds.append(in_a_process(options, work, name, threads))
                    print(f"{threads} threads, round {number + 1}, {name}: {seconds[-1]:.3f} s", file=sys.stderr)
            lines += [row(threads, name, found[name], found[OURS]) for name in scripts]
        size = f"{options.shapes} at {shapes.resolution} px"
        print(f"{size}, {options.precision}, {BATCH} images a step, median of {options.steps} steps\n")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
