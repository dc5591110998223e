"""A run on a base that is merged with a LoRA file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.export import export
from engine.families.registry import detect
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.runs.run import Run
from engine.workspace.paths import Workspace
from tests.bases import lora_files
from tests.compare_runs import assert_same_checkpoint
from tests.short_runs import RunFactory, train


@pytest.fixture
def style(ready_workspace: Workspace, tiny_base: Path) -> Path:
    """A LoRA file for the tiny base, in the workspace's models folder."""
    denoiser = detect(str(tiny_base)).load_denoiser(str(tiny_base), torch.float32)
    tensors = lora_files.kohya("lora_unet_", lora_files.factors(denoiser))
    return lora_files.write(ready_workspace.models / "loras" / "style.safetensors", tensors)


def test_the_net_starts_from_the_merged_base_and_resumes_without_the_file(
    ready_workspace: Workspace, new_run: RunFactory, style: Path, tmp_path: Path, tiny_base: Path
) -> None:
    settings = {"model.ingredients": "style:0.5", "train.steps": 4}
    straight = new_run(**settings)
    train(ready_workspace, straight)
    paused = new_run(**settings)
    assert train(ready_workspace, paused, {2: "pause"}).outcome == "paused"
    style.unlink()
    assert train(ready_workspace, Run(paused.folder)).outcome == "completed"
    assert_same_checkpoint(straight.checkpoints()[-1].folder, Run(paused.folder).checkpoints()[-1].folder)

    [used] = Run(straight.folder).checkpoints()[-1].about["ingredients"]
    assert (used["file"], used["weight"]) == ("style.safetensors", 0.5)
    made = export(straight.checkpoints()[-1].folder, "single_file", tmp_path / "out", "net")
    card = next((tmp_path / "out").rglob("README.md")).read_text(encoding="utf-8")
    assert (
        "| merged into the base before training | style.safetensors (weight 0.5, SHA-256 " in card
        and made.path.is_file()
    )


def test_try_it_draws_with_ingredients(
    ready_workspace: Workspace, style: Path, tiny_base: Path, loud_controlnet: Path, edges: Image.Image
) -> None:
    session = TrySession(ready_workspace, device="cpu")
    request = TryRequest(
        base=str(tiny_base), controlnet=loud_controlnet, prompt="x", control=edges, steps=2, width=64, height=64
    )
    plain, merged, off = session.generate(
        [request, replace(request, ingredients="style:0.5"), replace(request, ingredients="style:0")]
    )
    assert not np.array_equal(plain, merged) and np.array_equal(plain, off)
