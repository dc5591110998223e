"""A trainable that needs no condition maps: its runs start, train and save with images and captions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.nets.master_weights import MasterWeightSync
from engine.training import job, loss_checks, setup
from engine.training.job import create_run
from engine.tuning import facts
from engine.tuning.trainable import Placement, Trainable
from engine.workspace.paths import Workspace
from tests.short_runs import train

FILE = "denoiser.safetensors"


class WholeDenoiser(Trainable):
    """Made up: all weights of the base are trained, and nothing conditions it but the text."""

    def __init__(self, denoiser: Any, place: Placement) -> None:
        self.master = self.averaged = denoiser.requires_grad_(True)
        self.weights = MasterWeightSync(self.master, place.dtype)

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        save_file(self.master.state_dict(), folder / FILE)
        yield folder / FILE

    def load(self, folder: Path) -> None:
        self.master.load_state_dict(load_file(folder / FILE))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def checkpoint_bytes(self, average: bool) -> int:
        return 2**20


@pytest.fixture
def images_only(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with the dataset "pictures": images and captions, no condition type chosen."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"noise {number}", encoding="utf-8")
    Dataset.create(workspace, "pictures", scan_folder(folder))
    return workspace


def test_a_run_without_condition_maps_trains_and_saves(
    images_only: Workspace, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(**{"data.dataset": "pictures", "train.steps": 3})
    with pytest.raises(UserError, match="condition maps"):
        create_run(images_only, config, {})

    def needs_none(config: RunConfig) -> facts.TrainableFacts:
        return replace(facts.facts_of(config), needs_condition_maps=False)

    for module in (job, loss_checks, setup):
        monkeypatch.setattr(module, "facts_of", needs_none)
    monkeypatch.setattr(
        setup, "build_trainable", lambda config, net, denoiser, place, layers: WholeDenoiser(denoiser, place)
    )
    run = create_run(images_only, config, {})
    assert run.condition == {}
    trained = train(images_only, run)
    assert trained.outcome == "completed" and trained.warnings == []
    (saved,) = run.checkpoints()
    before = load_file(Path(config.model.base) / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(saved.folder / FILE)
    assert after.keys() == before.keys() and any(not torch.equal(after[name], before[name]) for name in before)
