"""What the recordings of curves share: a run on the bundled base with frequent loss checks, and the command line."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.jobs.control import Control
from engine.jobs.events import StepDone
from engine.training.loss_checks import Schedule
from engine.training.previews import preview_during_training
from engine.training.trainer import Trainer
from engine.workspace.paths import DEMO_BASE, Workspace

EVERY = 10
"""Steps between two loss checks."""


def train(
    workspace: Workspace,
    name: str,
    config: RunConfig,
    dataset: Dataset,
    until: int,
    watch: Callable[[Any], None],
    previews: bool = True,
) -> None:
    """Train until a step, with a loss check every ``EVERY`` steps. ``watch`` is called with each event."""
    control = Control()

    def emit(event: Any) -> None:
        watch(event)
        if isinstance(event, StepDone) and event.step == until:
            control.stop()

    run = workspace.new_run(name)
    preview = preview_during_training if previews else None
    trainer = Trainer(run, config, str(DEMO_BASE), dataset, workspace.cache, control.token, emit, preview)
    trainer.hooks.loss_checks.schedule = Schedule(EVERY, budget=1.0)
    trainer.train()
    trainer.close()


def main(
    description: str | None,
    runs: Mapping[str, Any],
    record: Callable[[Workspace, str, Any], dict[str, Any]],
    as_text: Callable[[dict[str, Any]], str] = lambda found: json.dumps(found, indent=1) + "\n",
) -> None:
    """Record the runs that are named on the command line, or all, each in a workspace of its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(runs)} (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or runs:
        with tempfile.TemporaryDirectory() as folder:
            found = record(Workspace(Path(folder)), name, runs[name])
        (options.out / f"{name}.json").write_text(as_text(found), encoding="utf-8")
