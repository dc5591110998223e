"""What a check without drawing costs, in steps: predicted by counting operations, and measured where this machine can.

    python -m benchmarks.check_cost [--steps 60]

Predicted: floating-point operations of one check and of one training step, counted by torch over nets without memory
(the meta device), for the bundled base and for real SD 1.5 and SDXL shapes at their effective batch. Measured: seconds
that the process computed, for steps and checks of the demo in turn; and, of a run at the default interval with the
demo's settings, the share of the time that its checks took.
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
from engine.demo.sets import demo_preset, make_demo_set
from engine.families.files import LAYOUTS
from engine.families.registry import by_name
from engine.jobs.control import Control
from engine.jobs.events import Checked, StepDone
from engine.training.faults import take_step
from engine.training.loss_checks import SHARE
from engine.training.trainer import Trainer
from engine.workspace.paths import DEMO_BASE, Workspace

PASSES = 4  # held-out and training pairs, each with the right map and with another's


def predicted(family: Any, config: dict[str, Any], side: int, tokens: int, batch: int) -> float:
    """Cost of a check in steps of ``batch`` images, by floating-point operations."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).requires_grad_(False)
        net = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        text = {"hidden": torch.empty(1, tokens, config["cross_attention_dim"])}
        if config.get("addition_embed_type") == "text_time":
            text |= {"pooled": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        noisy, at = torch.empty(1, 4, side // 8, side // 8), torch.zeros(1)
        hint = torch.empty(1, 3, side, side)

        def forward() -> torch.Tensor:
            return family.predict(unet, net, noisy, at, text, hint)

        with FlopCounterMode(display=False) as once, torch.no_grad():
            forward()
        with FlopCounterMode(display=False) as learning:
            forward().sum().backward()
    pairs = ValidationConfig().check_pairs
    return PASSES * pairs * once.get_total_flops() / (batch * learning.get_total_flops())


def measured(workspace: Workspace, steps: int) -> dict[str, float]:
    """The demo's step and check in processor seconds, medians; and the share of checks in a run of its settings."""
    dataset = make_demo_set(workspace, "circles", 200)
    asked = {"data": {"dataset": dataset.name}, "train": {"steps": steps}, "validation": {"every": 0, "check_every": 0}}
    found: dict[str, float] = {}
    trainer = _trainer(workspace, dataset, "alone", asked, [])
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

    asked["validation"] = {"every": 0}
    seen: list[Any] = []
    trainer = _trainer(workspace, dataset, "default", asked, seen)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    trainer.close()
    checks = [event for event in seen if isinstance(event, Checked)]
    # The first and the last are made whatever they cost; in between the pace decides.
    between = [check for check in checks if 0 < check.step < steps]
    assert sum(isinstance(event, StepDone) for event in seen) == steps
    return found | {
        "share": sum(check.seconds for check in between) / seconds,
        "between": len(between),
        "every": steps / (len(between) + 1),
    }


def _trainer(workspace: Workspace, dataset: Any, name: str, asked: dict[str, Any], seen: list[Any]) -> Trainer:
    config = resolve(("demo", demo_preset().values), (name, asked))[0]
    run = workspace.new_run(name)
    return Trainer(run, config, str(DEMO_BASE), dataset, workspace.cache, Control().token, seen.append)


def main() -> None:
    parser = argparse.ArgumentParser()
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
        apart = every * -(-max(every, steps / SHARE) // every)
        print(
            f"{title}, {batch} images a step: a check costs {steps:.2f} steps by operations; "
            f"at the default of {every} one is made every {apart:.0f} steps: {steps / (apart + steps):.1%} of the time"
        )
    with tempfile.TemporaryDirectory() as folder_name:
        found = measured(Workspace(Path(folder_name)), options.steps)
    print(f"the demo, measured: step {found['step']:.3f} s, check {found['check']:.3f} s of processor time: "
          f"{found['check'] / found['step']:.2f} steps")  # fmt: skip
    between = f"{found['between']:.0f} checks between its ends, {found['share']:.2%} of its time"
    print(f"a run of {options.steps} steps: {between}")


if __name__ == "__main__":
    main()
