"""An LCM-LoRA for the bundled base, under the demo's ControlNet or alone: few steps beside many (docs/fewer-steps.md).

    python -m benchmarks.fewer_steps [--alone] [--steps 100] [--set SECTION.NAME=VALUE ...] [--workspace FOLDER]

Draws the demo's circles, trains its ControlNet unless the workspace has one, distils the LoRA, and prints the adherence
of all 64 held-out pairs in 1, 2 and 4 steps with the LCM sampler, with the LoRA and without it, beside that of the
untrained base in 20 steps with guidance: from the same seeds, with 95 % intervals (paired bootstrap over the pairs).

With --alone the LoRA is distilled without a ControlNet, from images of all the base's shapes, and what is printed is
the share of 64 prompts whose image shows the right colours and shape (engine/demo/evaluate_base.py).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.bases.merging import ready_base
from engine.config.presets import resolve, unflatten
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.held_out import split
from engine.data.scan import scan_folder
from engine.demo.evaluate_base import choose_prompts, paint
from engine.demo.score import read_scene
from engine.demo.sets import SIDE, demo_preset, make_demo_set
from engine.demo.shapes import draw, random_scene
from engine.evaluation.adherence import PairScores, compare, normalize
from engine.evaluation.pairs import Models
from engine.evaluation.previews import PreviewCache, PreviewRequest, reference_scores
from engine.export import export
from engine.families.registry import detect
from engine.inference.samplers import DEFAULT
from engine.jobs.control import Control
from engine.runs.run import Run
from engine.training.job import training_job
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace

NET, LORA, USUAL = "net", "lcm", 20
PROMPTS = 64


def trained(workspace: Workspace, name: str, what: str, asked: dict[str, Any], dataset: str = "") -> Run:
    """A finished run with the demo's settings and those of ``asked``; one that exists is used.

    Args:
        dataset: its name; "": the demo's circles.
    """
    for folder in workspace.run_folders():
        if folder.name.endswith(f"_{name}") and Run(folder).last_step >= Run(folder).config.train.steps:
            return Run(folder)
    layers = demo_preset().layers("sd1", what)
    unmeasured = {"every": 0, "check_every": 0}  # it is measured afterwards
    data = {"dataset": dataset or make_demo_set(workspace).name}
    own = {"name": name, "tuning": {"what": what}, "data": data, "validation": unmeasured}
    config, origins = resolve(*layers, ("demo", own), ("you", asked))
    run = create_run(workspace, config, origins)
    assert training_job(workspace, run)(Control().token, lambda event: None) == "completed"
    return run


def scores(
    workspace: Workspace, net: Run, lora: Path | None, steps: int, guidance: float, sampler: str
) -> list[PairScores]:
    """Scores of the held-out pairs under the net, drawn so.

    Args:
        lora: merged into the base; None: the untrained base.
    """
    base = ready_base(workspace, f"{net.config.model.base} + {lora}" if lora else net.config.model.base)
    family, checkpoint = detect(base), net.checkpoints()[-1]
    dataset = Dataset.open(workspace.existing_dataset(net.config.data.dataset))
    pairs = split(dataset, net.config.data.held_out, net.held_out).held_out
    settings = net.config.validation.model_copy(
        update={"pictures": len(pairs), "sampling_steps": steps, "guidance_scale": guidance}
    )
    models = Models(
        family,
        base,
        family.load_denoiser(base, torch.float32),
        family.load_controlnet(checkpoint.controlnet),
        text=net.config.text,
        schedule=checkpoint.noise_schedule,
        sampler=sampler,
    )
    plan = CropPlan.of(net.config.data, net.config.train.seed)
    request = PreviewRequest(pairs, dataset, settings, plan, net.folder, 0, net.config.train.seed, batch=16)
    return reference_scores(models, request, PreviewCache())


def measure(
    workspace: Workspace, net: Run, lora: Path, few: tuple[int, ...] = (1, 2, 4)
) -> tuple[list[PairScores], dict[int, tuple[list[PairScores], list[PairScores]]]]:
    """Scores of the untrained base in ``USUAL`` steps; and, for each smaller number, with the LoRA and without it."""
    usual = scores(workspace, net, None, USUAL, net.config.validation.guidance_scale, DEFAULT)
    with_and_without = {
        steps: (scores(workspace, net, lora, steps, 1.0, "lcm"), scores(workspace, net, None, steps, 1.0, "lcm"))
        for steps in few
    }
    return usual, with_and_without


def text_of(rows: list[PairScores]) -> str:
    """The adherence with its interval."""
    found = normalize(rows)
    return found.text if found else "-"


def gap_text(first: list[PairScores], second: list[PairScores]) -> str:
    """Adherence of the second minus that of the first, with its interval."""
    found = compare(first, second)
    return found.text if found else "-"


def make_shapes(workspace: Workspace, count: int = 1000) -> Dataset:
    """Draws the shapes on which the base was trained, with their captions, unless the workspace has them."""
    name = f"shapes-{count}"
    folder = workspace.dataset_folder(name) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        scene = random_scene(np.random.default_rng([3, number]))
        Image.fromarray(draw(scene, SIDE)).save(folder / f"{number:04}.png")
        (folder / f"{number:04}.txt").write_text(scene.caption, encoding="utf-8")
    return Dataset.create(workspace, name, scan_folder(folder), folder)


def shown(base: str, steps: int, guidance: float, sampler: str) -> list[bool]:
    """Whether the image of each prompt shows the right shape in the right colours."""
    prompts = choose_prompts(PROMPTS, seed=0)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress
        images = paint(Path(base), prompts, guidance, steps, sampler, batch=20, seed=0)
    wanted = [(one.shape, one.foreground, one.background) for one in prompts]
    return [read_scene(image) == scene for image, scene in zip(images, wanted, strict=True)]


def share(right: list[bool]) -> str:
    """A share with its 95 % interval (Wilson 1927, "Probable inference")."""
    n, z = len(right), 1.96
    p = sum(right) / n
    middle, half = p + z * z / 2 / n, z * (p * (1 - p) / n + (z / 2 / n) ** 2) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return f"{p:.2f} ({low:.2f} to {high:.2f})"


def print_alone(base: str, fast: str, guidance: float, few: tuple[int, ...] = (1, 2, 4)) -> None:
    """Print what the base draws without a ControlNet.

    Args:
        fast: the base with the LoRA.
    """
    print(f"{USUAL} steps, CFG {guidance:g}, base alone: {share(shown(base, USUAL, guidance, DEFAULT))}", flush=True)
    for steps in few:
        rows = {
            "LCM with the LoRA": shown(fast, steps, 1.0, "lcm"),
            "LCM without": shown(base, steps, 1.0, "lcm"),
            f"{DEFAULT} without, CFG {guidance:g}": shown(base, steps, guidance, DEFAULT),
        }
        print(f"{steps} steps: {', '.join(f'{name} {share(rows[name])}' for name in rows)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", action="store_true", help="without a ControlNet")
    parser.add_argument("--steps", type=int, default=100, help="of the distillation")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--workspace", type=Path)
    options = parser.parse_args()
    workspace = Workspace(options.workspace or Path(tempfile.mkdtemp(prefix="fewer_steps_")))
    asked = unflatten(dict(one.split("=", 1) for one in options.set))
    asked.setdefault("train", {}).setdefault("steps", options.steps)
    net: Run | None = None
    began = time.perf_counter()
    if options.alone:
        dataset = make_shapes(workspace).name
    else:
        dataset, net = "", trained(workspace, NET, "controlnet", {})
        print(f"ControlNet: {time.perf_counter() - began:.0f} s", flush=True)
        asked["model"] = {"controlnet": str(net.checkpoints()[-1].folder)}
    name = f"{LORA}-{time.strftime('%H%M%S')}"
    began = time.perf_counter()
    run = trained(workspace, name, "lcm", asked, dataset)
    print(f"LCM-LoRA: {time.perf_counter() - began:.0f} s for {run.config.train.steps:,} steps", flush=True)
    base = ready_base(workspace, run.config.model.base)
    lora = export(run.checkpoints()[-1].folder, "single_file", run.exports, name, "fp32", base=base).path
    guidance = run.config.validation.guidance_scale
    if net is None:
        print_alone(base, ready_base(workspace, f"{run.config.model.base} + {lora}"), guidance)
        return
    usual, few = measure(workspace, net, lora)
    print(f"{USUAL} steps, CFG {guidance:g}, without the LoRA: {text_of(usual)}")
    for steps, (fast, bare) in few.items():
        print(
            f"{steps} steps, LCM sampler, against {USUAL}: with the LoRA {text_of(fast)}, {gap_text(usual, fast)}; "
            f"without {text_of(bare)}, {gap_text(usual, bare)}; with against without {gap_text(bare, fast)}"
        )


if __name__ == "__main__":
    main()
