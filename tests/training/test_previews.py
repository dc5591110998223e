"""Preview images of a run: what the user brings is drawn, read once, and never in the way of the training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.config import ValidationConfig
from engine.evaluation import pairs
from engine.families.stable_diffusion import StableDiffusion1
from engine.jobs.events import Message, PreviewMade, Progress
from engine.workspace.paths import Workspace
from tests.exif_settings import settings_in
from tests.short_runs import RunFactory, train

SETS = {"validation.every": 3, "validation.pictures": 2, "validation.sampling_steps": 1, "validation.check_every": 0}


def test_the_users_prompts_are_read_once_and_drawn_each_time(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Any] = []
    real = StableDiffusion1.load_text_encoder
    run = new_run(**SETS, **{"validation.prompts": "my own prompt\nanother", "validation.probes": 1})
    monkeypatch.setattr(StableDiffusion1, "load_text_encoder", lambda self, *a: loads.append(a) or real(self, *a))
    vaes: list[Any] = []
    load_vae = StableDiffusion1.load_vae
    monkeypatch.setattr(StableDiffusion1, "load_vae", lambda self, base: vaes.append(base) or load_vae(self, base))
    made = train(ready_workspace, run).of(PreviewMade)
    assert len(vaes) == 2, "once for the images of the set, once for all previews"
    assert len(loads) == 2, "once for the captions of the set, once for the two prompts"
    for event in made:
        assert [title.split(":")[0] for _, title in event.probes][-2:] == ["Your own"] * 2
        assert settings_in(event.probes[-2][0]).startswith("my own prompt\n")
        assert len(event.pictures) == 2, "they are apart from the held-out ones"
    assert [event.step for event in made] == [0, 3, 6]


def test_previews_stay_within_their_share_of_the_time(new_run: RunFactory, ready_workspace: Workspace) -> None:
    """The last set is drawn whatever it costs. Probes have steps of their own, but the user's prompts have not."""
    few = {"validation.every": 2, "validation.time_share": 0.01, "validation.probes": 1, "validation.probe_steps": 2}
    trained = train(ready_workspace, new_run(**SETS | few | {"validation.prompts": "my own prompt"}))
    made = trained.of(PreviewMade)
    assert [event.step for event in made] == [0, 6]
    steps = [
        f"Steps: {count}," in settings_in(image) for (image, _), count in zip(made[0].probes, (2, 2, 1), strict=True)
    ]
    assert steps == [True] * 3
    done = [event.total for event in trained.of(Progress) if event.label == pairs.DRAWING]
    assert set(done) == {2 * 1 + 2 * 2 + 1}


def test_the_shares_of_checks_and_previews_add_up_to_the_whole() -> None:
    usual = ValidationConfig()
    assert (usual.share_of_checks, usual.share_of_previews) == (0.03, math.inf), "as before there was the setting"
    both = ValidationConfig(time_share=4)
    assert (both.share_of_checks, both.share_of_previews) == (0.02, 0.02)
    assert ValidationConfig(time_share=4, check_every=0).share_of_previews == 0.04
    assert ValidationConfig(time_share=4, every=0).share_of_checks == 0.04


def test_own_images_of_a_set_with_its_own_maps_are_maps(
    new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "mine" / "a.png")
    run = new_run(**SETS, **{"validation.pictures_folder": str(tmp_path / "mine"), "validation.probes": 0})
    made = train(ready_workspace, run).of(PreviewMade)
    assert [len(event.probes) for event in made] == [1, 1, 1]


def test_a_folder_that_is_gone_is_reported_once_and_the_rest_is_drawn(
    new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    run = new_run(**SETS, **{"validation.pictures_folder": str(tmp_path / "gone"), "validation.probes": 1})
    trained = train(ready_workspace, run)
    assert trained.outcome == "completed"
    messages = [message for message in trained.of(Message) if "own test images were not found" in message.text]
    assert len(messages) == 1 and messages[0].level == "warning"
    assert all(event.pictures and event.probes for event in trained.of(PreviewMade))


def test_long_prompts_of_the_users_are_read_to_their_end_and_reported_once(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny base reads 30 tokens at once; the two long prompts differ behind that only."""
    read: list[tuple[Any, Any]] = []
    real = pairs.draw_latents

    def watched(family: Any, pipeline: Any, **inputs: Any) -> Any:
        read.append((inputs["text"]["hidden"], inputs["negative"]["hidden"]))
        return real(family, pipeline, **inputs)

    monkeypatch.setattr(pairs, "draw_latents", watched)
    long = "a red circle on a blue ground " * 6
    prompts = f"a short one\n{long}and green\n{long}and white"
    settings = {"validation.prompts": prompts, "validation.probes": 0, "train.steps": 3}
    trained = train(ready_workspace, new_run(**SETS, **settings))
    messages = [message for message in trained.of(Message) if "longer than the base reads" in message.text]
    assert len(messages) == 2, "one of each, though they are drawn twice"
    assert all("a red circle" in message.text and "read in 2 chunks" in message.text for message in messages)
    assert [len(event.probes) for event in trained.of(PreviewMade)] == [3, 3]
    short, whole = read[:2]
    assert [text.shape[:2] for text, _ in (short, whole)] == [(3, 32), (2, 64)], "captions as in training, apart"
    green, white = whole[0]
    assert torch.equal(green[:32], white[:32]) and not torch.allclose(green[32:], white[32:])
    assert whole[1].shape[1] == 64, "the empty prompt is as long"
