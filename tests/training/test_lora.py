"""Runs that train a LoRA: they pause and resume like any other, and their file does in other programs what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

from engine.bases.merging import ready_base
from engine.config import parse
from engine.errors import UserError
from engine.export.out import export
from engine.families.registry import detect
from engine.families.zero_controlnet import ZeroControlNet
from engine.runs.checkpoints import AVERAGED_LORA, LORA
from engine.runs.run import Run, read_preview
from engine.training.new_run import missing
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import train
from tests.teaching_runs import add_images, outputs, trained_denoiser
from tests.teaching_runs import run_of as run_that_teaches


@pytest.fixture
def images_only(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with the dataset "images": images and captions, no condition maps."""
    add_images(workspace, tmp_path / "images")
    return workspace


def run_of(workspace: Workspace, base: Path, **sections: Any) -> Run:
    tuning = {"what": "lora", "rank": 4} | sections.pop("tuning", {})
    optim = {"learning_rate": 1e-2} | sections.pop("optim", {})
    return run_that_teaches(workspace, base, tuning=tuning, optim=optim, **sections)


@pytest.mark.parametrize("base", ["tiny_base", pytest.param("tiny_sdxl", marks=pytest.mark.long)])
def test_the_file_of_a_checkpoint_changes_the_base_as_the_run_did(
    base: str, images_only: Workspace, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(base)
    run = run_of(images_only, folder)
    trained = train(images_only, run)
    assert trained.outcome == "completed" and trained.warnings == []
    file = run.checkpoints()[-1].folder / LORA
    plain = outputs(folder, detect(str(folder)).load_denoiser(str(folder), torch.float32))
    learned = outputs(folder, trained_denoiser(images_only, Run(run.folder)))
    made = export(run.checkpoints()[-1].folder, "single_file", run.exports, "style", "fp32", base=str(folder))
    assert made.checked == "Read back: all tensors are equal. Every layer fits the base."
    merged = ready_base(images_only, f"{folder} + {made.path}")
    from_file = outputs(folder, detect(merged).load_denoiser(merged, torch.float32))
    assert (learned - plain).abs().max() > 1e-3
    torch.testing.assert_close(from_file, learned, rtol=0, atol=1e-5)
    with safe_open(made.path, "pt") as opened:
        about, names = opened.metadata(), list(opened.keys())
    assert about["ss_output_name"] == made.path.stem and made.card is not None
    assert "rank (dim), alpha | 4" in (made.card / "README.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="already exists"):
        export(run.checkpoints()[-1].folder, "single_file", run.exports, "style")
    with pytest.raises(UserError, match="A LoRA cannot be exported as"):
        export(run.checkpoints()[-1].folder, "ldm", run.exports, "other")
    assert about["ss_network_dim"] == about["ss_network_alpha"] == "4" and about["ss_v2"] == "False"
    assert about["ss_base_model_version"] == ("sdxl_base_v1-0" if base == "tiny_sdxl" else "sd_v1")
    assert all(name.startswith("lora_unet_") for name in names)
    assert {float(opened_alpha) for opened_alpha in alphas(file)} == {4.0}


def picture(pipeline: Any) -> np.ndarray:
    """What a pipeline of diffusers draws, float (64, 64, 3) in 0 to 1."""
    pipeline.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 64, "width": 64, "output_type": "np"}
    return pipeline("noise", generator=torch.Generator().manual_seed(0), **asked).images[0]


@pytest.mark.long
def test_diffusers_draws_with_the_export_what_the_run_draws(images_only: Workspace, tiny_base: Path) -> None:
    """Its own pipeline and reader of LoRA files, against the pipeline with the denoiser as the run trained it."""
    run = run_of(images_only, tiny_base)
    train(images_only, run)
    file = export(run.checkpoints()[-1].folder, "single_file", run.exports, "style", "fp32", base=str(tiny_base)).path
    parts = {"safety_checker": None, "requires_safety_checker": False}
    plain, trained, read = (StableDiffusionPipeline.from_pretrained(tiny_base, **parts) for _ in range(3))
    trained.unet = trained_denoiser(images_only, Run(run.folder))
    read.load_lora_weights(str(file))
    wanted = picture(trained)
    assert np.abs(wanted - picture(plain)).max() > 0.01
    np.testing.assert_allclose(picture(read), wanted, atol=1e-4)


def alphas(file: Path) -> list[torch.Tensor]:
    with safe_open(file, "pt") as opened:
        return [opened.get_tensor(name) for name in opened.keys() if name.endswith(".alpha")]  # noqa: SIM118


@pytest.mark.parametrize(
    "settings",
    [
        {"train": {"precision": "bf16", "accumulation": 2}, "optim": {"ema_decay": 0.9}},
        pytest.param({"train": {"base_storage": "fp8", "precision": "bf16"}}, marks=pytest.mark.long),
        pytest.param({"optim": {"offload": True, "optimizer": "adafactor"}}, marks=pytest.mark.long),
        pytest.param(
            {"tuning": {"layers": "attention"}, "train": {"gradient_checkpointing": "both"}}, marks=pytest.mark.long
        ),
    ],
    ids=["bf16, EMA", "fp8", "in RAM, Adafactor", "attention, checkpointing"],
)
def test_a_paused_run_ends_as_a_straight_one(settings: dict[str, Any], images_only: Workspace, tiny_base: Path) -> None:
    straight, paused = (run_of(images_only, tiny_base, **settings) for _ in range(2))
    train(images_only, straight)
    assert train(images_only, paused, {2: "pause"}).outcome == "paused"
    assert train(images_only, Run(paused.folder)).outcome == "completed"
    assert_same_run(straight, Run(paused.folder))
    averaged = "ema_decay" in settings.get("optim", {})
    assert (Run(paused.folder).checkpoints()[-1].folder / AVERAGED_LORA).is_file() == averaged


def test_gradient_checkpointing_changes_no_gradient(images_only: Workspace, tiny_base: Path) -> None:
    runs = [
        run_of(images_only, tiny_base, train={"gradient_checkpointing": scope, "steps": 2})
        for scope in ("none", "both")
    ]
    for run in runs:
        train(images_only, run)
    one, two = (run.checkpoints()[-1].folder / LORA for run in runs)
    with safe_open(one, "pt") as first, safe_open(two, "pt") as second:
        for name in list(first.keys()):
            torch.testing.assert_close(first.get_tensor(name), second.get_tensor(name), rtol=0, atol=1e-5)


def test_previews_are_drawn_from_captions_with_what_an_export_would_have(
    images_only: Workspace, tiny_base: Path
) -> None:
    settings = {"every": 2, "pictures": 1, "sampling_steps": 2, "prompts": "a red circle"}
    run = run_of(images_only, tiny_base, validation=settings, train={"steps": 2}, optim={"ema_decay": 0.9})
    assert train(images_only, run).warnings == []
    before, after = (read_preview(run.folder / "previews" / f"step-{step:06d}") for step in (0, 2))
    assert before is not None and after is not None and len(after.pictures) == 1
    folders = [record.pictures[0].parent for record in (before, after)]
    for name in ("00.webp", "p00.webp"):
        first, last = (np.asarray(Image.open(folder / name)) for folder in folders)
        assert first.shape == (64, 64, 3) and not np.array_equal(first, last)
    assert Image.open(after.pictures[0]).size == (128, 64)  # beside the original


def test_a_silent_control_net_is_none(tiny_sdxl: Path, tiny_base: Path) -> None:
    for base in (tiny_base, tiny_sdxl):
        denoiser = detect(str(base)).load_denoiser(str(base), torch.float32)
        silent = ZeroControlNet(denoiser)
        assert torch.equal(outputs(base, denoiser), outputs(base, denoiser, silent))


def test_what_cannot_be_trained_is_refused(images_only: Workspace, tiny_sd3: Path) -> None:
    tuning = {"what": "lora", "text_rate": 1e-5}
    config = parse({"tuning": tuning, "model": {"base": str(tiny_sd3)}, "data": {"dataset": "images"}})
    assert any("text encoders of Stable Diffusion 3 cannot" in sentence for sentence in missing(images_only, config))
    with pytest.raises(UserError, match="A LoRA is trained without a ControlNet"):
        parse({"tuning": {"what": "lora"}, "model": {"control_lora_rank": 8}})
