"""Runs that train the whole base: they pause and resume like any other, and draw previews from captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from engine.bases.merged_tensors import text_tensors
from engine.config import parse
from engine.errors import UserError
from engine.estimate.memory import predict
from engine.export.out import export
from engine.families.embedding_files import parts_by_folder
from engine.families.registry import detect
from engine.jobs.control import Control
from engine.runs.run import Run, read_preview
from engine.training.job import build_trainer
from engine.training.new_run import missing
from engine.training.optim import RATE_SHARE
from engine.tuning.whole_base import AVERAGED_DENOISER, DENOISER, TEXT_FOLDER
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import train
from tests.teaching_runs import add_images, run_of

BASE = {"what": "base"}


@pytest.fixture
def images_only(workspace: Workspace, tmp_path: Path) -> Workspace:
    add_images(workspace, tmp_path / "images")
    return workspace


@pytest.mark.parametrize(
    "settings",
    [
        {"train": {"precision": "bf16", "accumulation": 2}, "optim": {"ema_decay": 0.9}},
        pytest.param({"optim": {"offload": True, "optimizer": "adafactor"}}, marks=pytest.mark.long),
        pytest.param(
            {"train": {"gradient_checkpointing": "both"}, "optim": {"in_backward": True}}, marks=pytest.mark.long
        ),
        pytest.param({"train": {"precision": "bf16"}, "optim": {"master_weights": "split"}}, marks=pytest.mark.long),
    ],
    ids=["bf16, EMA", "in RAM, Adafactor", "checkpointing, in backward", "split"],
)
def test_a_paused_run_ends_as_a_straight_one(settings: dict[str, Any], images_only: Workspace, tiny_base: Path) -> None:
    straight, paused = (run_of(images_only, tiny_base, tuning=BASE, **settings) for _ in range(2))
    train(images_only, straight)
    assert train(images_only, paused, {2: "pause"}).outcome == "paused"
    assert train(images_only, Run(paused.folder)).outcome == "completed"
    assert_same_run(straight, Run(paused.folder))
    averaged = "ema_decay" in settings.get("optim", {})
    assert (Run(paused.folder).checkpoints()[-1].folder / AVERAGED_DENOISER).is_file() == averaged


def test_every_weight_learns_and_previews_are_drawn_from_captions(images_only: Workspace, tiny_base: Path) -> None:
    shown = {"every": 2, "pictures": 1, "sampling_steps": 2, "prompts": "a red circle"}
    run = run_of(images_only, tiny_base, tuning=BASE, validation=shown, train={"steps": 2}, optim={"ema_decay": 0.9})
    trained = train(images_only, run)
    assert trained.outcome == "completed" and trained.warnings == []
    before = detect(str(tiny_base)).load_denoiser(str(tiny_base), torch.float32).state_dict()
    after = load_file(run.checkpoints()[-1].folder / DENOISER)
    assert after.keys() == before.keys() and not any(torch.equal(after[name], before[name]) for name in before)
    first, last = (read_preview(run.folder / "previews" / f"step-{step:06d}") for step in (0, 2))
    assert first is not None and last is not None
    for name in ("00.webp", "p00.webp"):
        assert (first.pictures[0].parent / name).read_bytes() != (last.pictures[0].parent / name).read_bytes()


def test_what_cannot_be_trained_is_refused(images_only: Workspace, tiny_sd3: Path) -> None:
    config = parse({"tuning": BASE, "model": {"base": str(tiny_sd3)}, "data": {"dataset": "images"}})
    assert any(
        "whole base can be trained for Stable Diffusion 3" in sentence for sentence in missing(images_only, config)
    )
    with pytest.raises(UserError, match="A whole base is trained without a ControlNet"):
        parse({"tuning": BASE, "model": {"control_lora_rank": 8}})
    with pytest.raises(UserError, match="cannot be kept in fp8"):
        parse({"tuning": BASE, "train": {"base_storage": "fp8"}})


def with_text(workspace: Workspace, base: Path, **sections: Any) -> Run:
    return run_of(workspace, base, tuning={**BASE, "text_rate": 5e-4}, **sections)


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [
        {"train": {"precision": "bf16", "accumulation": 2}, "optim": {"ema_decay": 0.9}},
        {
            "tuning": {**BASE, "text_rate": 5e-4, "preserve": "pictures", "class_prompt": "a red circle"}
            | {"class_images": 2},
            "optim": {"offload": True},
            "validation": {"sampling_steps": 2},
        },
    ],
    ids=["bf16, EMA", "preserved by pictures, in RAM"],
)
def test_with_text_encoders_a_paused_run_ends_as_a_straight_one(
    settings: dict[str, Any], images_only: Workspace, tiny_sd2: Path
) -> None:
    """In Stable Diffusion 2 the last layer of the text encoder is never read."""
    sections = {"tuning": {**BASE, "text_rate": 5e-4}} | settings
    straight, paused = (run_of(images_only, tiny_sd2, **sections) for _ in range(2))
    train(images_only, straight)
    assert train(images_only, paused, {2: "pause"}).outcome == "paused"
    assert train(images_only, Run(paused.folder)).outcome == "completed"
    assert_same_run(straight, Run(paused.folder))


@pytest.mark.parametrize(
    "base",
    ["tiny_base", pytest.param("tiny_sd2", marks=pytest.mark.long), pytest.param("tiny_sdxl", marks=pytest.mark.long)],
)
def test_text_encoders_learn_and_exports_have_them(
    base: str, images_only: Workspace, request: pytest.FixtureRequest
) -> None:
    """Both forms, read by diffusers and transformers: the bits of the checkpoint, in the names that programs know."""
    place: Path = request.getfixturevalue(base)
    run = with_text(images_only, place, train={"steps": 1})
    trained = train(images_only, run)
    assert trained.outcome == "completed" and trained.warnings == []
    folder, family = run.checkpoints()[-1].folder, detect(str(place))
    before = parts_by_folder(family, "text_encoder", family.load_text_encoder(str(place), torch.float32))
    one_file = export(folder, "single_file", run.exports, "file", "fp32", base=str(place))
    whole = export(folder, "diffusers", run.exports, "folder", "fp32", base=str(place))
    assert "mean difference 0.00" in one_file.checked and "mean difference 0.00" in whole.checked
    assert before.keys() == {path.stem for path in (folder / TEXT_FOLDER).iterdir()}
    read = detect(str(one_file.path)).load_text_encoder(str(one_file.path), torch.float32)
    of_file = parts_by_folder(family, "text_encoder", read)
    for part, encoder in before.items():
        learned = load_file(folder / TEXT_FOLDER / f"{part}.safetensors")
        changed = {name for name, tensor in text_tensors(encoder).items() if not torch.equal(tensor, learned[name])}
        assert "text_model.encoder.layers.0.mlp.fc1.weight" in changed
        of_folder = type(encoder).from_pretrained(whole.path, subfolder=part)
        for found in (text_tensors(of_file[part]), text_tensors(of_folder)):
            assert found.keys() == learned.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in learned.items())
        with safe_open(whole.path / part / "model.safetensors", "pt") as written:
            assert set(written.keys()) == learned.keys()


def test_memory_with_text_encoders_is_predicted(images_only: Workspace, tiny_base: Path) -> None:
    run = with_text(images_only, tiny_base, train={"precision": "bf16"}, optim={"ema_decay": 0.9})
    predicted = predict(images_only, run.config, images=4)
    trainer = build_trainer(images_only, run, Control().token, lambda event: None)
    state = trainer.state
    trained = sum(parameter.nbytes for parameter in state.trainable.parameters())
    rates = {
        parameter: group.get(RATE_SHARE, 1) for group in state.optimizer.param_groups for parameter in group["params"]
    }
    shares = {(name.startswith("text_encoder."), rates[p]) for name, p in state.trainable.master.named_parameters()}
    trainer.close()
    assert shares == {(False, 1), (True, 0.5)}
    for part, size in (("trained weights", trained), ("EMA", trained), ("optimizer", 2 * trained)):
        assert predicted.training[part] == pytest.approx(size, rel=0.02)
    assert predicted.weights_of_checkpoint == pytest.approx(2 * trained, rel=0.02)
