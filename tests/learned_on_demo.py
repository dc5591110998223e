"""Runs that teach the bundled base something, and images drawn with their files. For long tests with exact figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.config import ValidationConfig, parse
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.evaluation.pairs import ImageRequest, Models, draw, to_images
from engine.families.registry import detect
from engine.families.zero_controlnet import ZeroControlNet
from engine.runs.run import Run
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace
from tests.short_runs import train

SIDE = 128
DRAWN = 24


def taught(
    workspace: Workspace,
    folder: Path,
    count: int,
    paint: Callable[[np.random.Generator], tuple[np.ndarray, str]],
    **sections: dict[str, Any],
) -> Run:
    """A finished run on the demo base, trained on ``count`` images of 128 px.

    Args:
        folder: for the images; its name is the dataset's. One that exists is used as it is.
        paint: makes an image, RGB uint8, and its caption.
        sections: the run's settings.
    """
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(1)
        for number in range(count):
            image, caption = paint(rng)
            Image.fromarray(image).save(folder / f"{number:03d}.png")
            (folder / f"{number:03d}.txt").write_text(caption, encoding="utf-8")
        Dataset.create(workspace, folder.name, scan_folder(folder))
    steps = sections["train"]["steps"]
    settings: dict[str, Any] = {
        **sections,
        "model": {"base": "demo"},
        "data": {"dataset": folder.name, "resolution": SIDE, "held_out": 2},
        "train": {"batch_size": 8, "precision": "fp32", "checkpoint_every": steps} | sections["train"],
        "validation": {"every": 0, "check_every": 0} | sections.get("validation", {}),
    }
    run = create_run(workspace, parse(settings), {})
    assert train(workspace, run).outcome == "completed"
    return run


def drawn_on(base: str, captions: list[str]) -> list[np.ndarray]:
    """An image of each caption, RGB uint8 (128, 128, 3), at fixed seeds. ``base``: where it is."""
    family = detect(base)
    denoiser = family.load_denoiser(base, torch.float32)
    models = Models(family, base, denoiser, ZeroControlNet(denoiser))
    blank = np.zeros((SIDE, SIDE, 3), np.uint8)
    requests = [ImageRequest(blank, caption, 100 + number) for number, caption in enumerate(captions)]
    settings = ValidationConfig(sampling_steps=12, guidance_scale=3)
    return to_images(models, family.load_vae(base), draw(models, requests, settings, batch=8), None)
