"""Runs that preserve what the base knows: DreamBooth's loss, exact resume, class images, settings that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.config import parse
from engine.errors import UserError
from engine.estimate.memory import predict
from engine.families.base import Family
from engine.jobs.control import Cancelled, Control
from engine.jobs.events import Progress
from engine.runs.checkpoints import LORA
from engine.runs.run import Run
from engine.training.batches import Task
from engine.training.job import build_trainer
from engine.training.new_run import missing
from engine.training.preservation import joined
from engine.training.preserved_captions import without_word
from engine.training.step import denoising_loss, train_step
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import train
from tests.teaching_runs import add_images, run_of

SUBJECT = {"what": "subject", "word": "zrp", "rank": 4}
PICTURES = {"preserve": "pictures", "class_prompt": "a mug\na cup", "class_images": 5}
FEW_STEPS = {"every": 0, "check_every": 0, "sampling_steps": 2}


@pytest.fixture
def images_only(workspace: Workspace, tmp_path: Path) -> Workspace:
    add_images(workspace, tmp_path / "images", caption="zrp, noise {}".format)
    return workspace


def a_task(value: float, count: int = 1) -> Task:
    shape = (count, 4, 2, 2)
    return Task(torch.full(shape, value), torch.zeros(count), {}, torch.zeros(shape), torch.ones(count))


def test_the_loss_of_a_batch_of_two_made_by_hand() -> None:
    """DreamBooth: the image's mean squared error, plus the weight times that of the class image."""
    task = joined(a_task(3.0), a_task(2.0), share=0.5)
    assert denoising_loss(task.noisy, task.target, task.weights).item() == pytest.approx(9 + 0.5 * 4)


def test_a_step_is_that_loss_of_its_own_two_halves(
    images_only: Workspace, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(images_only, tiny_base, tuning={**SUBJECT, "preserve_weight": 0.5}, validation=FEW_STEPS)
    trainer = build_trainer(images_only, run, Control().token, lambda event: None)
    state = trainer.state
    train_step(state)  # so that the factors do something
    state.step_done()
    state.trainable.weights.refresh()
    seen: list[tuple[torch.Tensor, ...]] = []
    predict = state.family.predict

    def watch(_: Family, *given: Any) -> torch.Tensor:
        answer = predict(*given)
        seen.append((given[2], answer.detach()))
        return answer

    monkeypatch.setattr(type(state.family), "predict", watch)
    loss = train_step(state)
    (noisy_of_base, by_base), (noisy, predicted) = seen
    own, of_others = predicted.chunk(2)
    first, second = noisy.chunk(2)
    assert torch.equal(first, second) and torch.equal(first, noisy_of_base), "answers are given at the same noise"
    assert not torch.equal(by_base, of_others), "the base answers without the factors"
    batch = state.batches.get(1)
    latents = state.latent_space.sample(batch.mean, batch.logvar, batch.random.posterior)
    target = state.noise_process.target(latents, batch.random.noise, batch.random.uniform_timesteps)
    wanted = (own - target).square().mean() + 0.5 * (of_others - by_base).square().mean()
    assert isinstance(loss, torch.Tensor) and loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    trainer.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": SUBJECT, "train": {"precision": "bf16", "accumulation": 2}, "optim": {"ema_decay": 0.9}},
        pytest.param({"tuning": {**SUBJECT, **PICTURES}}, marks=pytest.mark.long),
        pytest.param({"tuning": {"what": "base", **PICTURES}}, marks=pytest.mark.long),
        pytest.param({"tuning": {**SUBJECT, "text_rate": 1e-4}}, marks=pytest.mark.long),
    ],
    ids=["answers", "pictures", "whole base, pictures", "answers, text encoder"],
)
def test_a_paused_run_ends_as_a_straight_one(settings: dict[str, Any], images_only: Workspace, tiny_base: Path) -> None:
    straight, paused = (run_of(images_only, tiny_base, **settings, validation=FEW_STEPS) for _ in range(2))
    train(images_only, straight)
    assert train(images_only, paused, {2: "pause"}).outcome == "paused"
    assert train(images_only, Run(paused.folder)).outcome == "completed"
    assert_same_run(straight, Run(paused.folder))


def test_class_images_are_drawn_once_and_go_on_after_a_stop(images_only: Workspace, tiny_base: Path) -> None:
    run, whole = (
        run_of(images_only, tiny_base, tuning={**SUBJECT, **PICTURES}, validation=FEW_STEPS, train={"steps": 1})
        for _ in range(2)
    )
    train(images_only, whole)
    folder = run.folder / "class_images"
    with pytest.raises(Cancelled):
        train(images_only, run, when={Progress: lambda t: t.control.stop() if _drawing(t.of(Progress)[-1]) else None})
    assert len(list(folder.glob("*.safetensors"))) < 5
    trained = train(images_only, Run(run.folder))
    assert trained.outcome == "completed"
    drawn = [load_file(folder / f"{n:05d}.safetensors")["latents"] for n in range(5)]
    alone = [load_file(whole.folder / "class_images" / f"{n:05d}.safetensors")["latents"] for n in range(5)]
    assert all(torch.equal(one, other) for one, other in zip(drawn, alone, strict=True))
    assert len(list(folder.glob("*.webp"))) == 5


def _drawing(progress: Progress) -> bool:
    return progress.label.startswith("Class images") and progress.done > 0


def test_preservation_changes_what_is_learned(images_only: Workspace, tiny_base: Path) -> None:
    runs = [
        run_of(images_only, tiny_base, tuning={**SUBJECT, "preserve": how}, validation=FEW_STEPS, train={"steps": 2})
        for how in ("none", "answers")
    ]
    for run in runs:
        train(images_only, run)
    one, two = (load_file(run.checkpoints()[-1].folder / LORA) for run in runs)
    assert one.keys() == two.keys() and any(not torch.equal(one[name], two[name]) for name in one)


def test_the_estimate_counts_twice_the_images(images_only: Workspace, tiny_base: Path) -> None:
    runs = [run_of(images_only, tiny_base, tuning={**SUBJECT, "preserve": how}) for how in ("none", "answers")]
    one, two = (predict(images_only, run.config).training for run in runs)
    assert two["activations"] == 2 * one["activations"] and two["optimizer"] == one["optimizer"]


def test_captions_without_the_word() -> None:
    assert without_word("zrp", "zrp") == "" and without_word("a red ZRP, on grass", "zrp") == "a red, on grass"
    assert without_word("zrp, a mug", "zrp") == "a mug" and without_word("zrps and my-zrp", "zrp") == "zrps and my-zrp"


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ({**SUBJECT, "preserve": "pictures"}, "Class images need a class prompt"),
        ({"what": "base", "preserve": "answers"}, "in memory a second time"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tuning: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse({"tuning": tuning})


def test_one_image_is_not_enough(workspace: Workspace, tmp_path: Path, tiny_base: Path) -> None:
    add_images(workspace, tmp_path / "images", count=1)
    asked = {"tuning": SUBJECT, "model": {"base": str(tiny_base)}, "data": {"dataset": "images"}}
    (told,) = missing(workspace, parse(asked))
    assert told == "1 of 1 image can be used; at least 2 are needed, since one is held out to measure by."


def test_a_subject_needs_a_word_of_its_own(images_only: Workspace, tiny_base: Path) -> None:
    def told(word: str) -> str:
        asked = {"tuning": {"what": "subject", "word": word}, "model": {"base": str(tiny_base)}}
        return " ".join(missing(images_only, parse({**asked, "data": {"dataset": "images"}})))

    assert "The subject has no word" in told("") and told("zrp") == ""
    assert "red is a word of the base already" in told("red")
