"""Runs that teach the base itself: a dataset of images and captions without condition maps, and settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.config import parse
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.families.registry import detect
from engine.jobs.control import Control
from engine.runs.run import Run
from engine.training.job import build_trainer
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace


def add_images(
    workspace: Workspace, folder: Path, count: int = 4, caption: Callable[[int], str] = "noise {}".format
) -> None:
    """Add the dataset "images": noise of 64 x 64 px."""
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption(number), encoding="utf-8")
    Dataset.create(workspace, "images", scan_folder(folder))


def run_of(workspace: Workspace, base: Path, **sections: Any) -> Run:
    """A run of 4 steps on "images". ``sections``: settings that differ, by section."""
    settings: dict[str, Any] = {
        "tuning": {},
        "model": {"base": str(base)},
        "data": {"dataset": "images", "resolution": 64, "held_out": 1},
        "optim": {"learning_rate": 1e-3},
        "train": {"steps": 4, "batch_size": 2, "precision": "fp32", "checkpoint_every": 100},
        "validation": {"every": 0, "check_every": 0},
    }
    for section, values in sections.items():
        settings[section] = settings[section] | values
    return create_run(workspace, parse(settings), {})


def trained_denoiser(workspace: Workspace, run: Run) -> torch.nn.Module:
    """The denoiser of a run as it computes now."""
    trainer = build_trainer(workspace, run, Control().token, lambda event: None)
    try:
        return trainer.state.denoiser.eval()
    finally:
        trainer.close()


@torch.no_grad()
def outputs(base: Path | str, denoiser: torch.nn.Module, net: Any = None) -> torch.Tensor:
    """A prediction for noise, through the family's own call."""
    family, where = detect(str(base)), str(base)
    noisy = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    encoder, tokenizer = family.load_text_encoder(where, torch.float32), family.load_tokenizer(where)
    encoded = family.encode_text(tokenizer, encoder, ["noise"])
    text = family.conditioning(encoded, torch.tensor([[64, 64, 0, 0, 64, 64]]), torch.float32, None)
    control = None if net is None else torch.zeros((1, 3, 64, 64))
    return family.predict(denoiser, net, noisy, torch.tensor([500]), text, control)
