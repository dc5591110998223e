"""How soon a ControlNet follows its control images, by the initialization of its control encoder (docs/demo.md).

    python -m benchmarks.hint_start [--until 300] [--seeds 1 2 4]

Trains on the bundled base and the demo's circles with the demo's settings, once with PyTorch's default initialization
and once with He's. Every 50 steps it measures the control gain on 32 held-out pairs at timesteps 700 to 960: the loss
with another pair's control image minus the loss with the right one, in units of 0.0001. 0 means that the ControlNet
ignores the control image, about 75 that it follows the outlines.
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
TIMESTEPS = (700, 800, 900, 960)


class Gain:
    """A preview hook for the trainer that measures the control gain instead of drawing images."""

    def __init__(self) -> None:
        self.measured: list[int] = []

    @torch.no_grad()
    def __call__(self, state: TrainState, step: int) -> None:
        count = len(state.held_out)
        everything = state.samples
        batches = Batches(
            state.dataset,
            everything,
            range(len(everything) - count, len(everything)),
            state.cache,
            plan=state.plan,
            seed=9,
            batch_size=PAIRS,
            num_train_timesteps=1000,
            prompt_dropout=0.0,
        )
        batch = batches.get(0)
        batches.close()
        timesteps = torch.tensor(TIMESTEPS).repeat(PAIRS // len(TIMESTEPS))
        latents = state.latent_space.sample(batch.mean, batch.logvar, batch.random.posterior)
        noisy = state.noise_process.add_noise(latents, batch.random.noise, timesteps)
        assert batch.maps is not None
        control = state.family.encode_control(batch.maps)

        def loss(control: torch.Tensor) -> float:
            predicted = state.family.predict(
                state.denoiser, state.trainable.control_net, noisy, timesteps, batch.text, control
            )
            return float(denoising_loss(predicted, batch.random.noise, torch.ones(PAIRS)))

        self.measured.append(round((loss(control.roll(1, 0)) - loss(control)) * 1e4))


def gains(workspace: Workspace, dataset: Any, start: str, seed: int, until: int) -> list[int]:
    """Control gains at steps 0, 50 ... ``until`` of one run. It is stopped there; its schedule is that of the demo."""
    settings = {
        "model": {"hint_start": start},
        "data": {"dataset": dataset.name},
        "train": {"seed": seed},
        "validation": {"every": EVERY},
    }
    config = resolve(("demo", demo_preset().values), ("benchmark", settings))[0]
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
