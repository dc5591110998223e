"""When a ControlNet begins to listen, with PyTorch's start of the hint encoder and with He's.

    python -m benchmarks.hint_start [--until 300] [--seeds 1 2 4]

On the bundled base and the demo's circles, with the demo's settings. Every 50 steps: the control gain on 32 held-out
pairs at timesteps 700 to 960, that is the loss with another image's map minus the loss with the right one, in units
of 0.0001. Nothing learnt: 0. About 75 when the net follows the outlines.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from engine.config.presets import resolve
from engine.demo.sets import demo_preset, make_demo_set
from engine.jobs.control import Control
from engine.jobs.events import StepDone
from engine.training.batches import Batches
from engine.training.state import TrainState
from engine.training.step import denoising_loss
from engine.training.trainer import Trainer
from engine.workspace.paths import DEMO_BASE, Workspace

EVERY, PAIRS = 50, 32
LEVELS = (700, 800, 900, 960)


class Gain:
    """Called as the trainer's preview: measures in the place of drawing."""

    def __init__(self) -> None:
        self.measured: list[int] = []

    @torch.no_grad()
    def __call__(self, state: TrainState, step: int) -> None:
        count = len(state.held_out)
        everything = state.samples
        batches = Batches(
            state.dataset, everything, range(len(everything) - count, len(everything)), state.cache,
            plan=state.plan, seed=9, batch_size=PAIRS, timesteps=1000, prompt_dropout=0.0,
        )  # fmt: skip
        batch = batches.get(0)
        batches.close()
        timesteps = torch.tensor(LEVELS).repeat(PAIRS // len(LEVELS))
        latents = state.latent_space.sample(batch.mean, batch.logvar, batch.draws.posterior)
        noisy = state.noise_process.add_noise(latents, batch.draws.noise, timesteps)

        control = state.family.encode_control(batch.maps)

        def loss(control: torch.Tensor) -> float:
            predicted = state.family.predict(
                state.denoiser, state.trainable.control_net, noisy, timesteps, batch.text, control
            )
            return float(denoising_loss(predicted, batch.draws.noise, torch.ones(PAIRS)))

        self.measured.append(round((loss(control.roll(1, 0)) - loss(control)) * 1e4))


def gains(workspace: Workspace, dataset: Any, start: str, seed: int, until: int) -> list[int]:
    """The control gain at steps 0, 50 ... ``until`` of a run whose learning rate is planned for its whole length."""
    asked = {
        "model": {"hint_start": start},
        "data": {"dataset": dataset.name},
        "train": {"seed": seed},
        "validation": {"every": EVERY},
    }
    config = resolve(("demo", demo_preset().values), ("benchmark", asked))[0]
    control, gain = Control(), Gain()

    def watch(event: Any) -> None:
        if isinstance(event, StepDone) and event.step == until:
            control.stop()

    run = workspace.new_run(f"{start}-{seed}")
    trainer = Trainer(run, config, str(DEMO_BASE), dataset, workspace.cache, control.token, watch, gain)
    trainer.train()
    trainer.close()
    return gain.measured


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--until", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        dataset = make_demo_set(workspace, "circles", 2000)
        steps = range(0, options.until + 1, EVERY)
        print(f"| start | seed | {' | '.join(map(str, steps))} |\n|---|---|{'---|' * len(steps)}")
        for start in ("default", "he"):
            for seed in options.seeds:
                row = gains(workspace, dataset, start, seed, options.until)
                print(f"| {start} | {seed} | {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
