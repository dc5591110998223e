"""The curves that the verdict's rules are tested on, recorded from real runs on the bundled base.

    python -m benchmarks.verdict_curves OUT_FOLDER [--steps 300] [--blank-steps 120]

With the demo's settings, checked every 10 steps whatever it costs: "circles" (a run that converges) and "blank" (the
same with all maps black, so that there is nothing to listen to). One JSON file each, as tests/evaluation/curves has.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from engine.demo.sets import demo_preset, make_demo_set
from engine.jobs.control import Control
from engine.jobs.events import Checked, PreviewMade, StepDone
from engine.presets import resolve
from engine.training.checks import Pace
from engine.training.previews import preview_during_training
from engine.training.trainer import Trainer
from engine.workspace import DEMO_BASE, Workspace

EVERY, PAIRS = 10, 800


def blacken(dataset: Any) -> None:
    """Black maps in the place of the outlines that were drawn for this set."""
    for sample in dataset.samples():
        path = dataset.condition_path(sample)
        with Image.open(path) as picture:
            size = picture.size
        Image.new("RGB", size).save(path)


def record(workspace: Workspace, name: str, blank: bool, until: int, steps: int) -> dict[str, Any]:
    """Checks and scores of a run of the demo's settings, planned for ``steps`` and ended at ``until``."""
    dataset = make_demo_set(workspace, "circles", PAIRS)
    if blank:
        blacken(dataset)
    asked = {"data": {"dataset": dataset.name}, "train": {"steps": steps}, "validation": {"every": 50, "pictures": 4}}
    config = resolve(("demo", demo_preset().values), ("benchmark", asked))[0]
    control = Control()
    found: dict[str, Any] = {"name": name, "settings": config.model_dump(mode="json"), "checks": [], "scores": []}

    def watch(event: Any) -> None:
        if isinstance(event, Checked):
            found["checks"].append({k: float(f"{v:.6g}") for k, v in asdict(event).items()})
            print(name, event, flush=True)
        elif isinstance(event, PreviewMade):
            found["scores"].append([event.step, event.scores])
            print(name, event.step, event.scores, flush=True)
        elif isinstance(event, StepDone) and event.step == until:
            control.stop()

    preview = None if blank else preview_during_training
    run = workspace.new_run(name)
    trainer = Trainer(run, config, str(DEMO_BASE), dataset, workspace.cache, control.token, watch, preview)
    trainer.checks.pace = Pace(EVERY, share=1.0)
    trainer.train()
    trainer.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--blank-steps", type=int, default=120)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, blank, until in (("circles", False, options.steps), ("blank", True, options.blank_steps)):
        with tempfile.TemporaryDirectory() as folder:
            found = record(Workspace(Path(folder)), name, blank, until, options.steps)
        (options.out / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
