"""Every family trains, resumes, draws and leaves through the same code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.export.out import export
from engine.families.registry import detect
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.events import PreviewMade
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint
from tests.short_runs import RunFactory, train

QUICK = ("tiny_base",)
LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("tiny_sdxl", "tiny_sd2", "tiny_sd2_base")]


@pytest.mark.parametrize("any_base", [*QUICK, *LONG], indirect=True)
def test_a_run_of_each_family_from_start_to_export(
    any_base: Path, new_run: RunFactory, ready_workspace: Workspace, edges: Image.Image, tmp_path: Path
) -> None:
    settings = {
        "model.base": str(any_base),
        "train.steps": 4,
        "objective.min_snr_gamma": 5.0,
        "validation.every": 4,
        "validation.pictures": 2,
        "validation.sampling_steps": 2,
        "validation.check_every": 50,
    }
    straight, paused = new_run(**settings, **{"optim.ema_decay": 0.9}), new_run(**settings, **{"optim.ema_decay": 0.9})
    trained = train(ready_workspace, straight)
    assert trained.outcome == "completed"
    assert trained.warnings == []
    assert [event.step for event in trained.of(PreviewMade)] == [0, 4]

    assert train(ready_workspace, paused, at_step={2: "pause"}).outcome == "paused"
    assert train(ready_workspace, paused).outcome == "completed"
    last = straight.checkpoints()[-1].folder
    assert_same_checkpoint(last, paused.checkpoints()[-1].folder)

    request = TryRequest(
        base=str(any_base), controlnet=last, prompt="red circle", control=edges, steps=2, width=64, height=64
    )
    image = TrySession(ready_workspace, device="cpu").generate([request])[0]
    assert np.asarray(image).std() > 1

    name = f"net_{detect(str(any_base)).facts.file_tag}"
    for kind in ("single_file", "diffusers"):
        assert export(last, kind, tmp_path, name).path.exists()


def test_sdxl_gets_size_and_crop(tiny_sdxl: Path, photos: dict[str, np.ndarray]) -> None:
    from engine.data.crop import shared_crop, size_numbers

    height, width = photos["coffee"].shape[:2]
    assert (width, height) == (600, 400)
    assert size_numbers(shared_crop(width, height, 64)) == (400, 600, 0, 16, 64, 64)
