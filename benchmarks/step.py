"""Our training step compared with diffusers' own recipe: images per second, peak memory, and the effect of techniques.

    python -m benchmarks.step                                                 (a processor: a small base)
    python -m benchmarks.step --shapes sd15 --device cuda --preset 12gb       (a card: real shapes, random weights)
    python -m benchmarks.step --shapes sd15 --device cuda --preset 8gb --cap 7 --variants ours

Both sides train a ControlNet on the same images, captions, base, precision, optimizer and effective batch size of 4.
The recipe is the one for small cards in the guide to diffusers' train_controlnet.py, written with diffusers'
components: images are decoded and go through VAE and text encoder at each step, autocast unless the precision is fp32,
batch size 1 with gradient accumulation 4, gradient checkpointing. Each measurement runs in its own process, which makes
peak memory its own, and the sides alternate (A B A B). Without a card the times are processor time, so that other load
on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch

from benchmarks.step_recipe import BATCH, Encoders, their_step
from benchmarks.synthetic import SHAPES, dataset_name, make_base, make_images
from engine.config import RunConfig
from engine.config.presets import PRESETS_FOLDER, load_preset, resolve
from engine.data.dataset import Dataset
from engine.estimate.memory import predict
from engine.jobs.control import Control
from engine.jobs.events import Message
from engine.machine.precision import DTYPES
from engine.nets.master_weights import MasterWeightSync
from engine.runs.run import write_run
from engine.training.faults import take_step
from engine.training.state import TrainState
from engine.training.trainer import Trainer
from engine.workspace.paths import Workspace

GIB = 2**30
THEIRS = "diffusers' recipe"
AUTOCAST = "ours, autocast with fp32 weights"
ABLATIONS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, VAE and text encoder at each step": {"also": "encode"},
    "ours, batch size 1, gradient accumulation 4": {"train.batch_size": 1, "train.accumulation": BATCH},
    "ours, gradient checkpointing in the ControlNet": {"train.gradient_checkpointing": "controlnet"},
    "ours, gradient checkpointing in both nets": {"train.gradient_checkpointing": "both"},
    "ours, condition maps decoded at each step": {"also": "decode"},
    AUTOCAST: {"also": "autocast"},
    "ours, Control-LoRA of rank 64": {"model.control_lora_rank": 64},
    "ours, base in fp8": {"train.base_storage": "fp8"},
    "ours, trained weights in RAM": {"optim.offload": True, "optim.optimizer": "adamw"},
    "ours, channels last": {"train.channels_last": True},
    "ours, torch.compile": {"train.compile": "kernels"},
    "ours, torch.compile with CUDA graphs": {"train.compile": "graphs"},
    "ours, attention by xformers": {"train.attention": "xformers"},
}
"""Settings of each variant. "also" is a change that is no setting, see ``our_step``."""


def config_of(options: argparse.Namespace, base: str, variant: str) -> RunConfig:
    """The preset's settings, if there is one, with the variant's changes, at the same effective batch size for all."""
    shapes = SHAPES[options.shapes]
    common: dict[str, Any] = {
        "model": {"base": base},
        "data": {"dataset": dataset_name(shapes.resolution), "resolution": shapes.resolution},
        "train": {"batch_size": BATCH, "accumulation": 1, "precision": options.precision},
        "validation": {"every": 0, "check_every": 0},
    }
    preset = load_preset(PRESETS_FOLDER / f"{options.preset}.toml").layers(shapes.layout) if options.preset else []
    if preset:
        common["train"] = {}
    if options.optimizer:
        common["optim"] = {"optimizer": options.optimizer}
    changes: dict[str, Any] = {}
    for name, value in ABLATIONS.get(variant, {}).items():
        if "." in name:
            section, key = name.split(".")
            changes.setdefault(section, {})[key] = value
    return resolve(*preset, ("benchmark", common), (variant, changes))[0]


# -- ours -------------------------------------------------------------------------------------------------------------


def our_step(options: argparse.Namespace, workspace: Workspace, base: str, variant: str) -> SimpleNamespace:
    """A run of the app with a variant's settings, and a function that takes one step of it."""
    config, also = config_of(options, base, variant), ABLATIONS[variant].get("also")
    folder = workspace.runs / f"{time.time_ns()}"
    folder.mkdir(parents=True)
    write_run(folder, {"config": config.model_dump(mode="json")})
    dataset = Dataset.open(workspace.dataset_folder(config.data.dataset))
    warnings: list[str] = []

    def on_event(event: Any) -> None:
        if isinstance(event, Message) and event.level == "warning":
            warnings.append(event.text)

    trainer = Trainer(folder, config, base, dataset, workspace.cache, Control().token, on_event)
    if also == "decode":
        trainer.state.batches._maps = None
    if also == "autocast":
        trainer.state.trainable.weights = MasterWeightSync(trainer.state.trainable.master, torch.float32)
        trainer.state.nets.use(trainer.state.trainable.master, trainer.state.denoiser)
        trainer.state.family = _autocast(trainer.state)
    encode = _encoder(trainer.state) if also == "encode" else lambda: None

    def step() -> torch.Tensor:
        encode()
        while (loss := take_step(trainer.state)) is None:  # the loss scale is still too large
            pass
        assert isinstance(loss, torch.Tensor), loss
        trainer.state.step_done()
        return loss

    return SimpleNamespace(
        step=step, images=config.images_per_step, waited=lambda: trainer.state.batches.waited, save=trainer.save,
        close=trainer.close, estimate=predict(workspace, config, len(trainer.state.samples)), warnings=warnings,
    )  # fmt: skip


def _autocast(state: TrainState) -> Any:
    predict_plain, device, dtype = state.family.predict, state.device.type, state.dtype

    def under_autocast(*arguments: Any) -> torch.Tensor:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return predict_plain(*arguments)

    family = type("Autocast", (type(state.family),), {})()
    family.predict = under_autocast
    return family


def _encoder(state: TrainState) -> Callable[[], None]:
    """A function that does what the cache saves: decode and encode images and captions. The results are not used."""
    encode = Encoders(state.family, state.base, state.device, state.dtype)
    size = state.config.data.resolution

    def once() -> None:
        first = state.step * BATCH
        encode([state.samples[(first + number) % len(state.samples)] for number in range(BATCH)], size)

    return once


# -- measuring --------------------------------------------------------------------------------------------------------


def build(options: argparse.Namespace, workspace: Workspace, base: str, variant: str) -> SimpleNamespace:
    """A variant, ready to take steps."""
    if variant != THEIRS:
        return our_step(options, workspace, base, variant)
    size = SHAPES[options.shapes].resolution
    return their_step(options, workspace, base, size, config_of(options, base, "ours").optim)


def measure(options: argparse.Namespace, workspace: Workspace, base: str, variant: str) -> dict[str, Any]:
    """Measure a variant in this process: speed, memory, waiting for data. The result is ready for JSON."""
    on_card = options.device == "cuda"
    torch.manual_seed(0)
    if on_card and options.cap:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(options.cap * GIB / total)
    before = psutil.Process().memory_info().rss
    built = build(options, workspace, base, variant)
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(options.warm_up):
        loss = built.step()
    float(loss)
    clock = time.perf_counter if on_card else time.process_time
    waited, began, wall = built.waited(), clock(), time.perf_counter()
    for _ in range(options.steps):
        loss = built.step()
    float(loss)  # waits for the card
    seconds, wall = clock() - began, time.perf_counter() - wall
    found = {
        "images_per_second": options.steps * built.images / seconds,
        "seconds_per_step": seconds / options.steps,
        "waiting": (built.waited() - waited) / wall,
        "reserved": torch.cuda.max_memory_reserved() / GIB if on_card else None,
        "allocated": torch.cuda.max_memory_allocated() / GIB if on_card else None,
        "ram": peak_rss() / GIB,
        "ram_before": before / GIB,
        "predicted": (built.estimate.needs if on_card else built.estimate.peak) / GIB if built.estimate else None,
        "loss": float(loss),
        "said": built.warnings,
    }
    if built.save is not None:
        began = time.perf_counter()
        built.save()
        found["save"] = time.perf_counter() - began
    built.close()
    return found


def peak_rss() -> float:
    """Peak memory of this process so far, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def in_a_process(arguments: list[str], variant: str) -> dict[str, Any]:
    """Run ``measure`` in its own process. If it fails, the result has only "error"."""
    command = [sys.executable, "-m", "benchmarks.step", *arguments, "--only", variant]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"error": done.stderr.strip().splitlines()[-1:]}


def table(rows: dict[str, list[dict[str, Any]]], on_card: bool) -> str:
    """Markdown, one row per variant: medians over the rounds."""
    peak = "peak reserved, GiB" if on_card else "peak RAM, GiB"
    lines = [f"| | images/s | x | {peak} | predicted | waited for data |", "|---|---|---|---|---|---|"]
    recipe = [run["images_per_second"] for run in rows.get(THEIRS, []) if "error" not in run]
    for variant, runs in rows.items():
        good = [run for run in runs if "error" not in run]
        if not good:
            lines.append(f"| {variant} | {runs[0]['error']} | | | | |")
            continue
        figures = [key for key, value in good[0].items() if isinstance(value, float)]
        middle = {key: statistics.median(run[key] for run in good) for key in figures}
        times = f"{middle['images_per_second'] / statistics.median(recipe):.2f}" if recipe else ""
        memory = middle["reserved"] if on_card else middle["ram"]
        process = 0 if on_card else middle["ram_before"]  # the estimate is for a card
        predicted = f"{middle['predicted'] + process:.2f}" if "predicted" in middle else ""
        waited = f"{100 * middle['waiting']:.2f} %" if variant != THEIRS else ""
        speed = f"{middle['images_per_second']:.2f}"
        lines.append(f"| {variant} | {speed} | {times} | {memory:.2f} | {predicted} | {waited} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="mid")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=DTYPES, help="default: fp32 on a processor, bf16 on a card")
    parser.add_argument("--preset", default="", help="run ours with this preset's settings")
    parser.add_argument("--optimizer", default="", help="for both; default: the preset's, or adamw")
    parser.add_argument("--cap", type=float, default=0, help="GiB of the card that a process may use")
    parser.add_argument("--steps", type=int, default=0, help="timed steps per round")
    parser.add_argument("--warm-up", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", help="only variants whose name contains one of these")
    parser.add_argument("--work", type=Path, help="folder for base, images and cache, kept for the next call")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_card = options.device == "cuda"
    precision = "bf16" if on_card else "fp32"
    if options.preset:
        precision = str(load_preset(PRESETS_FOLDER / f"{options.preset}.toml").values["train"]["precision"])
    options.precision = options.precision or precision
    options.steps = options.steps or (200 if on_card else 4)
    options.warm_up = options.warm_up or (20 if on_card else 1)
    if not on_card:
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        workspace, shapes = Workspace(work), SHAPES[options.shapes]
        dtype = torch.float16 if on_card else torch.float32
        base = make_base(work / f"base-{options.shapes}", shapes, dtype, options.device)
        make_images(workspace, shapes.resolution)
        if options.only:
            print(json.dumps(measure(options, workspace, str(base), options.only)), flush=True)
            return
        variants = [THEIRS, *ABLATIONS]
        if options.precision == "fp32":
            variants.remove(AUTOCAST)
        if options.variants:
            variants = [name for name in variants if any(part == name or part in name[5:] for part in options.variants)]
        skip = {"--work", str(options.work), "--variants", *(options.variants or [])}
        arguments = [word for word in sys.argv[1:] if word not in skip] + ["--work", str(work)]
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
        for number in range(options.rounds):
            for variant in variants:
                if number and variant not in (THEIRS, "ours"):
                    continue  # ablations are measured once, the comparison alternates
                rows[variant].append(in_a_process(arguments, variant))
                print(variant, rows[variant][-1], file=sys.stderr, flush=True)
        machine = torch.cuda.get_device_name() if on_card else "one processor core"
        size = f"{options.shapes} at {shapes.resolution} px"
        print(f"{machine}, {size}, {options.precision}, effective batch size {BATCH}\n")
        print(table(rows, on_card))
        for run in rows.get("ours", [])[:1]:
            if "save" in run:
                fraction = run["save"] / (500 * run["seconds_per_step"])
                print(f"\nA checkpoint takes {run['save']:.1f} s: {fraction:.2%} of 500 steps.")


if __name__ == "__main__":
    main()
