"""Unusable checkpoints raise readable errors, and out of memory reduces the batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.cli.main import main
from engine.config import ValidationConfig
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.errors import UserError
from engine.evaluation import loaded
from engine.evaluation.effect_job import measure_effect
from engine.evaluation.loaded import LowMemoryDrawing, load_models
from engine.evaluation.pairs import ImageRequest, no_side_effects, read_pair
from engine.inference.memory_saving import OFFLOADED, MemorySaving
from engine.runs.run import Run
from engine.workspace.paths import Workspace

WEIGHTS = "diffusion_pytorch_model.safetensors"


def config(**changes: Any) -> Callable[[Path], None]:
    def change(net: Path) -> None:
        about = json.loads((net / "config.json").read_text(encoding="utf-8")) | changes
        (net / "config.json").write_text(json.dumps(about), encoding="utf-8")

    return change


def not_a_number(net: Path) -> None:
    weights = load_file(net / WEIGHTS)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, net / WEIGHTS)


def cut_short(net: Path) -> None:
    (net / WEIGHTS).write_bytes((net / WEIGHTS).read_bytes()[:-100])


@pytest.fixture
def spoilt(prepared: Run, tmp_path: Path) -> Callable[[Callable[[Path], None]], Workspace]:
    """A copy of the workspace with a damaged newest checkpoint."""

    def spoil(how: Callable[[Path], None]) -> Workspace:
        copy = Workspace(Path(shutil.copytree(prepared.folder.parents[1], tmp_path / "copy")))
        checkpoint = copy.runs / prepared.name / "checkpoints" / "step-000020"
        how(checkpoint / "controlnet")
        about = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
        if how is not cut_short:
            files = {name: (checkpoint / name).stat().st_size for name in about["files"]}
            (checkpoint / "checkpoint.json").write_text(json.dumps(about | {"files": files}), encoding="utf-8")
        return copy

    return spoil


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (config(cross_attention_dim=1024), ("does not fit", "the width of its text (1024 instead of 64)")),
        (config(conditioning_channels=1), ("control images of 1 channels",)),
        (not_a_number, ("is broken", "conv_in.bias", "earlier checkpoint")),
        (cut_short, ("step 20", "Complete checkpoints on disk: 10")),
    ],
    ids=["another family", "channels", "NaN", "cut short"],
)
def test_the_command_reports_an_unusable_checkpoint(
    spoilt: Any, prepared: Run, how: Any, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    copy = spoilt(how)
    assert main(["--workspace", str(copy.root), "evaluate", prepared.name, "--checkpoint", "20", "--pairs", "2"]) == 2
    output = " ".join(capsys.readouterr().err.split())
    assert all(word in output for word in words) and "Traceback" not in output
    run, chosen = Run(copy.runs / prepared.name), prepared.checkpoints()[1]  # listed before the damage
    with pytest.raises(UserError):
        measure_effect(copy, run, replace(chosen, folder=run.folder / "checkpoints" / chosen.folder.name))
    assert not (copy.runs / prepared.name / "evaluation" / "full-000020").exists()


def test_a_map_of_another_size_is_cropped_like_its_image(spoilt: Any, prepared: Run) -> None:
    copy = spoilt(lambda net: None)
    dataset = Dataset.open(copy.dataset_folder("circles"))
    sample = dataset.samples()[0]
    before = read_pair(sample, dataset, CropPlan(64))
    path = dataset.condition_path(sample)
    with Image.open(path) as map:
        map.convert("RGB").resize((150, 150)).save(path)
    after = read_pair(sample, dataset, CropPlan(64))
    assert after.wanted.shape == after.original.shape == (64, 64, 3)
    assert np.abs(after.wanted.astype(int) - before.wanted).mean() < 20


def test_out_of_memory_reduces_the_batch_then_raises_an_error(
    prepared: Run, own_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = load_models(own_workspace, prepared, prepared.checkpoints()[0])
    needed, asked, shown = [0], [], []
    draw, to_images = loaded.draw, loaded.to_images

    def short_of_it(*given: Any) -> Any:
        asked.append((drawing.saving.level, given[-1]))
        if drawing.saving.level < needed[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return draw(*given)

    def decode(nets: Any, vae: Any, latents: Any, token: Any) -> Any:
        shown.append(vae.use_tiling)
        return to_images(nets, vae, latents, token)

    monkeypatch.setattr(loaded, "draw", short_of_it)
    monkeypatch.setattr(loaded, "to_images", decode)
    maps = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    wanted = [ImageRequest(map, "red circle", seed) for seed, map in enumerate(maps)]

    def drawn() -> list[np.ndarray]:
        with no_side_effects(models):
            return drawing.images(wanted, ValidationConfig(sampling_steps=1), None, None, lambda vae: None)[0]

    drawing = LowMemoryDrawing(models)
    plain = drawn()
    assert drawing.notes == [] and asked == [(0, 4)] and shown == [False]
    needed[0] = OFFLOADED
    drawing = LowMemoryDrawing(models, MemorySaving(torch.device("cpu"), OFFLOADED))
    spared = drawn()
    assert asked[1:] == [(0, 4), (1, 1), (2, 1)] and shown[1:] == [True]
    assert ["tiles" in drawing.notes[0], "computer's memory" in drawing.notes[1]] == [True, True]
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(plain, spared, strict=True))
    needed[0] = OFFLOADED + 1
    with pytest.raises(UserError, match="not enough memory"):
        drawn()
