"""Measures one item of benchmarks/gpu.py, which runs each in its own process: python -m benchmarks.gpu_parts ITEM.

An item is a path such as memory/sd15/8gb. The last line of the output is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.precision import trained
from benchmarks.step import ABLATIONS, GIB, THEIRS, measure, peak_rss
from benchmarks.synthetic import SHAPES, make_base, make_images
from engine.config import RunConfig
from engine.config.presets import PRESETS_FOLDER, load_preset, resolve
from engine.data.dataset import Dataset
from engine.demo.sets import make_demo_set
from engine.errors import UserError
from engine.estimate.memory import CONTEXT_BYTES, predict
from engine.jobs.control import Control
from engine.jobs.events import Message, StepDone
from engine.runs.changes import FALLBACKS
from engine.runs.run import Run
from engine.training.faults import take_step
from engine.training.job import training_job
from engine.training.new_run import create_run
from engine.training.previews import preview_during_training
from engine.training.trainer import Trainer
from engine.workspace.paths import Workspace

TINY = {"sd15": "tiny", "sd21": "tiny21", "sdxl": "tinyxl"}
CARDS = {"6gb": 6, "8gb": 8, "12gb": 12, "16gb": 16, "24gb": 24}
EIGHT_BIT = "adamw8bit"

Found = dict[str, Any]


class World:
    """A workspace with random bases and synthetic datasets. Those that exist already are used again."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.on_card = options, options.device == "cuda"
        self.workspace = Workspace(options.work)

    def shapes(self, family: str) -> str:
        return TINY[family] if self.options.tiny else family

    def base(self, family: str) -> str:
        name = self.shapes(family)
        dtype = torch.float16 if self.on_card else torch.float32
        return str(make_base(self.options.work / f"base-{name}", SHAPES[name], dtype, self.options.device))

    def images(self, family: str) -> Dataset:
        return make_images(self.workspace, SHAPES[self.shapes(family)].resolution)

    def config(self, family: str, preset: str, settings: Found) -> RunConfig:
        """A preset's settings for a family at its resolution, with the item's own ``settings``."""
        shapes = SHAPES[self.shapes(family)]
        own: Found = {
            "model": {"base": self.base(family)},
            "data": {"dataset": self.images(family).name, "resolution": shapes.resolution},
            "validation": {"every": 0, "check_every": 0, "sampling_steps": 2, "probes": 0},
        }
        layers = load_preset(PRESETS_FOLDER / f"{preset}.toml").layers(shapes.layout)
        return resolve(*layers, ("benchmark", own), ("item", settings))[0]

    def cap(self, gib: float) -> None:
        """Limit this process to a card of ``gib`` GiB, including what CUDA itself takes."""
        if self.on_card:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction((gib * GIB - CONTEXT_BYTES) / total)


def peak(reset: bool = True) -> tuple[float | None, float | None]:
    """Peak GiB reserved and allocated on the card since the last reset. None without a card."""
    if not torch.cuda.is_available():
        return None, None
    found = torch.cuda.max_memory_reserved() / GIB, torch.cuda.max_memory_allocated() / GIB
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return found


# -- memory -----------------------------------------------------------------------------------------------------------


def memory(world: World, family: str, preset: str) -> Found:
    """Peak memory of preparing, training and drawing with a preset on a card of its size, and the estimate."""
    world.cap(CARDS[preset])
    config = world.config(family, preset, {})
    shutil.rmtree(world.workspace.cache, ignore_errors=True)  # so that the VAE and the text encoder run, too
    dataset, warnings = world.images(family), []
    estimated = predict(world.workspace, config, len(dataset.samples()))
    run = create_run(world.workspace, config, {})
    peak()

    def on_event(event: Any) -> None:
        if isinstance(event, Message) and event.level == "warning":
            warnings.append(event.text)

    before = peak_rss()
    trainer = Trainer(run.folder, config, config.model.base, dataset, world.workspace.cache, Control().token, on_event)
    preparing, seconds, state = peak(), [], trainer.state
    while state.step < (3 if world.options.tiny else 8):
        began = time.perf_counter()
        loss = take_step(state)
        if loss is not None:
            assert isinstance(loss, torch.Tensor), loss
            float(loss)
            state.step_done()
            seconds.append(time.perf_counter() - began)
    training = peak()
    preview_during_training(state, state.step)
    images = peak(reset=False)
    context = None
    if world.on_card:
        free, total = torch.cuda.mem_get_info()
        context = (total - free - torch.cuda.memory_reserved()) / GIB
    began = time.perf_counter()
    checkpoint = trainer.save()
    saving = time.perf_counter() - began
    trainer.close()
    assert checkpoint is not None
    step = sorted(seconds[1:])[len(seconds[1:]) // 2]
    phases = {"preparing": preparing, "training": training, "pictures": images}
    return {
        "reserved": {name: reserved for name, (reserved, _) in phases.items()},
        "allocated": {name: allocated for name, (_, allocated) in phases.items()},
        "context": context,
        "foreseen": {name: sum(getattr(estimated, name).values()) / GIB for name in phases},
        "needs": estimated.needs / GIB,
        "ram": peak_rss() / GIB,
        "ram_before": before / GIB,
        "ram_foreseen": estimated.ram / GIB,
        "checkpoint": sum(file.stat().st_size for file in checkpoint.folder.rglob("*") if file.is_file()) / GIB,
        "checkpoint_foreseen": estimated.checkpoint / GIB,
        "seconds_per_step": step,
        "images_per_step": config.images_per_step,
        "save": saving,
        "stall": saving / (saving + 500 * step),
        "rungs": _fallbacks(run),
        "said": warnings,
    }


def out_of_memory(world: World, family: str, preset: str) -> Found:
    """Train with a preset that does not fit into 6 GB. Which fallbacks are taken, and does the run complete?"""
    world.cap(CARDS["6gb"])
    steps = 4
    config = world.config(family, preset, {"train": {"steps": steps, "precision": "fp16"}})
    run, warnings, done = create_run(world.workspace, config, {}), [], []

    def on_event(event: Any) -> None:
        if isinstance(event, Message) and event.level == "warning":
            warnings.append(event.text)
        elif isinstance(event, StepDone):
            done.append(event)

    outcome = training_job(world.workspace, run)(Control().token, on_event)
    return {
        "outcome": outcome,
        "steps": [event.step for event in done],
        "images": done[-1].images_seen / len(done),
        "wanted": config.images_per_step,
        "rungs": _fallbacks(run),
        "said": warnings,
        "reserved": peak(reset=False)[0],
    }


def _fallbacks(run: Run) -> list[str]:
    """Descriptions of the fallbacks that a run has taken."""
    return [fallback["words"] for fallback in Run(run.folder).about.get(FALLBACKS, [])]


# -- speed ------------------------------------------------------------------------------------------------------------


def speed(world: World, variant: str, preset: str = "") -> Found:
    """One measurement of benchmarks/step.py.

    Args:
        variant: "theirs" (diffusers' recipe), "ours", or the name of an ablation.
        preset: a preset, or the number of the round.
    """
    name = {"theirs": THEIRS, "ours": "ours"}.get(variant, f"ours, {variant}")
    assert name == THEIRS or name in ABLATIONS, variant
    tiny = world.options.tiny
    precision = "fp16" if world.on_card else "fp32"
    preset = "" if preset.isdigit() else preset
    if preset:
        precision = str(load_preset(PRESETS_FOLDER / f"{preset}.toml").values["train"]["precision"])
    options = argparse.Namespace(
        shapes=world.shapes("sd15"), device=world.options.device, precision=precision, preset=preset, cap=0,
        steps=2 if tiny else 60, warm_up=1 if tiny else 10, optimizer="" if preset else eight_bit(world),
    )  # fmt: skip
    base = world.base("sd15")
    world.images("sd15")
    return measure(options, world.workspace, base, name)


def eight_bit(world: World) -> str:
    """The optimizer for both sides: the recipe's 8-bit AdamW if bitsandbytes is installed, else AdamW."""
    import importlib.util

    usable = world.on_card and importlib.util.find_spec("bitsandbytes") is not None
    return EIGHT_BIT if usable else "adamw"


# -- precision and resuming -------------------------------------------------------------------------------------------


def precision(world: World, kind: str, seed: str) -> Found:
    """Train the demo in one precision, as benchmarks/precision.py does."""
    dataset = make_demo_set(world.workspace, "circles", 60 if world.options.tiny else 2000)
    smaller = {"data": {"held_out": 4}, "validation": {"pictures": 3, "check_pairs": 2, "sampling_steps": 2}}
    steps, changes = (3, smaller) if world.options.tiny else (240, {})
    return trained(world.workspace, dataset, kind, int(seed), steps, changes)


RESUMED: dict[str, Found] = {
    "adamw": {"optim": {"optimizer": "adamw"}},
    "adafactor": {"optim": {"optimizer": "adafactor"}},
    "adamw8bit": {"optim": {"optimizer": "adamw8bit"}},
    "paged": {"optim": {"optimizer": "paged_adamw8bit"}},
    "offload": {"optim": {"offload": True}},
    "fp8": {"train": {"base_storage": "fp8"}},
}


def resume(world: World, mode: str) -> Found:
    """Train six steps without and with a pause in the middle, and compare the final weights bit by bit."""
    half = "fp16" if world.on_card else "fp32"
    train = {**RESUMED[mode].get("train", {}), "steps": 6, "checkpoint_every": 100, "precision": half}
    validation = {"every": 0, "check_every": 0}
    config = world.config("sd15", "24gb", {**RESUMED[mode], "train": train, "validation": validation})
    weights = []
    for stops in ((), (3,)):
        run = create_run(world.workspace, config, {})
        for stop in (*stops, None):
            control = Control()

            def on_event(event: Any, stop: int | None = stop, control: Control = control) -> None:
                if isinstance(event, StepDone) and event.step == stop:
                    control.pause()

            outcome = training_job(world.workspace, run)(control.token, on_event)
        from safetensors.torch import load_file

        folder = Run(run.folder).checkpoints()[-1].folder
        weights.append({file.parent.name: load_file(file) for file in sorted(folder.rglob("*.safetensors"))})
    different = [
        f"{part}/{name}"
        for part, tensors in weights[0].items()
        for name, tensor in tensors.items()
        if not torch.equal(tensor, weights[1][part][name])
    ]
    first, second = (saved["controlnet"] for saved in weights)
    largest = max((float((tensor - second[name]).abs().max()) for name, tensor in first.items()), default=0.0)
    return {
        "outcome": outcome,
        "tensors": sum(map(len, weights[0].values())),
        "apart": len(different),
        "furthest": largest,
    }


KINDS: dict[str, Callable[..., Found]] = {
    "memory": memory,
    "ladder": out_of_memory,
    "speed": speed,
    "ablation": speed,
    "precision": precision,
    "resume": resume,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("item")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    kind, *rest = options.item.split("/")
    began = time.perf_counter()
    try:
        found = KINDS[kind](World(options), *rest)
    except UserError as error:
        found = {"error": f"{error.what} {error.why}"}
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        found = {"error": f"{type(error).__name__}: {lines[0][:200]}"}
    found["took"] = time.perf_counter() - began
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
