"""Cost of a loss check in optimizer steps: predicted from operation counts, and measured on the demo.

    python -m benchmarks.check_cost [--steps 200]

Predicted: floating-point operations of one check and of one optimizer step, counted by torch on the meta device, for
the bundled base and for SD 1.5 and SDXL at their real shapes and effective batch size. Measured: processor time of
steps and checks of the demo, alternating, and the share of the time that loss checks take in a run with the default
interval.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from engine.config import ValidationConfig
from engine.config.presets import resolve
from engine.config.validation import CHECK_SHARE
from engine.demo.sets import demo_preset, make_demo_set
from engine.families.files import LAYOUTS
from engine.families.registry import by_name
from engine.jobs.control import Control
from engine.jobs.events import Checked, StepDone
from engine.training.faults import take_step
from engine.training.trainer import Trainer
from engine.workspace.paths import DEMO_BASE, Workspace

PASSES = 4  # held-out and training pairs, each with its own control image and with that of another pair


def predicted(family: Any, config: dict[str, Any], side: int, tokens: int, batch: int) -> float:
    """Floating-point operations of a loss check, divided by those of an optimizer step of ``batch`` images.

    Args:
        config: config.json of the UNet.
        side: width and height of the images in pixels.
        tokens: length of the text embeddings.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).requires_grad_(False)
        net = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        text = {"hidden": torch.empty(1, tokens, config["cross_attention_dim"])}
        if config.get("addition_embed_type") == "text_time":
            text |= {"pooled": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        noisy, timesteps = torch.empty(1, 4, side // 8, side // 8), torch.zeros(1)
        control = torch.empty(1, 3, side, side)

        def forward() -> torch.Tensor:
            return family.predict(unet, net, noisy, timesteps, text, control)

        with FlopCounterMode(display=False) as inference, torch.no_grad():
            forward()
        with FlopCounterMode(display=False) as training:
            forward().sum().backward()
    pairs = ValidationConfig().check_pairs
    return PASSES * pairs * inference.get_total_flops() / (batch * training.get_total_flops())


def measured(workspace: Workspace, steps: int) -> dict[str, float]:
    """Median processor seconds of the demo's step and loss check, and the checks' share of the time of a run.

    Returns:
        "step", "check": processor seconds. "share": fraction of the time. "between": number of checks apart from the
        first and the last. "every": mean steps between two checks.
    """
    dataset = make_demo_set(workspace, "circles", 200)
    settings: dict[str, Any] = {"data": {"dataset": dataset.name}, "train": {"steps": steps}}
    settings["validation"] = {"every": 0, "check_every": 0}
    trainer = _trainer(workspace, dataset, "alone", settings, [])
    trainer.hooks.loss_checks._off = False
    took: dict[str, list[float]] = {"step": [], "check": []}
    for number in range(24):
        began = time.process_time()
        take_step(trainer.state)
        trainer.state.step_done()
        took["step"].append(time.process_time() - began)
        if number % 3 == 0:
            began = time.process_time()
            trainer.hooks.loss_checks.check_if_due(always=True)
            took["check"].append(time.process_time() - began)
    trainer.close()
    found = {name: statistics.median(values[2:]) for name, values in took.items()}

    settings["validation"] = {"every": 0}
    seen: list[Any] = []
    trainer = _trainer(workspace, dataset, "default", settings, seen)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    trainer.close()
    checks = [event for event in seen if isinstance(event, Checked)]
    # The first and the last are always made; in between the time budget decides.
    between = [check for check in checks if 0 < check.step < steps]
    assert sum(isinstance(event, StepDone) for event in seen) == steps
    return found | {
        "share": sum(check.seconds for check in between) / seconds,
        "between": len(between),
        "every": steps / (len(between) + 1),
    }


def _trainer(workspace: Workspace, dataset: Any, name: str, settings: dict[str, Any], seen: list[Any]) -> Trainer:
    config = resolve(("demo", demo_preset().values), (name, settings))[0]
    run = workspace.new_run(name)
    return Trainer(run, config, str(DEMO_BASE), dataset, workspace.cache, Control().token, seen.append)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = ValidationConfig().check_every
    shapes: list[tuple[str, str, Path, int, int, int]] = [
        ("the demo", "sd1", DEMO_BASE / "unet", 128, 32, 8),
        ("SD 1.5, 512 px", "sd1", LAYOUTS / "sd1" / "unet", 512, 77, 4),
        ("SDXL, 1024 px", "sdxl", LAYOUTS / "sdxl" / "unet", 1024, 77, 4),
    ]
    for title, layout, folder, side, tokens, batch in shapes:
        family = by_name(layout)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        steps = predicted(family, config, side, tokens, batch)
        interval = every * -(-max(every, steps / CHECK_SHARE) // every)
        print(
            f"{title}, {batch} images a step: a check costs as many operations as {steps:.2f} steps; with the default "
            f"of {every}, checks are made every {interval:.0f} steps: {steps / (interval + steps):.1%} of the time"
        )
    with tempfile.TemporaryDirectory() as folder_name:
        found = measured(Workspace(Path(folder_name)), options.steps)
    ratio = found["check"] / found["step"]
    print(f"the demo, processor time: step {found['step']:.3f} s, check {found['check']:.3f} s or {ratio:.2f} steps")
    between = f"{found['between']:.0f} checks besides the first and the last, {found['share']:.2%} of the time"
    print(f"a run of {options.steps} steps: {between}")


if __name__ == "__main__":
    main()
