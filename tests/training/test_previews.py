"""Control pictures of a run: what the user brings is drawn, read once, and never in the way of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.evaluation.picture_files import settings_in
from engine.families.sd1 import StableDiffusion1
from engine.jobs.events import Message, PreviewMade
from engine.workspace import Workspace

from .conftest import RunFactory, Worker

SETS = {"validation.every": 3, "validation.pictures": 2, "validation.sampling_steps": 1, "validation.check_every": 0}


def test_the_users_prompts_are_read_once_and_drawn_each_time(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Any] = []
    real = StableDiffusion1.load_text_encoder
    run = new_run(**SETS, **{"validation.prompts": "my own prompt\nanother", "validation.probes": 1})
    monkeypatch.setattr(StableDiffusion1, "load_text_encoder", lambda self, *a: loads.append(a) or real(self, *a))
    made = Worker(ready_workspace, run).of(PreviewMade)
    assert len(loads) == 2, "once for the captions of the set, once for the two prompts"
    for event in made:
        assert [title.split(":")[0] for _, title in event.probes][-2:] == ["Your own"] * 2
        assert settings_in(event.probes[-2][0]).startswith("my own prompt\n")
        assert len(event.pictures) == 2, "they are apart from the held-out ones"
    assert [event.step for event in made] == [0, 3, 6]


def test_own_pictures_of_a_set_with_its_own_maps_are_maps(
    new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "mine" / "a.png")
    run = new_run(**SETS, **{"validation.pictures_folder": str(tmp_path / "mine"), "validation.probes": 0})
    made = Worker(ready_workspace, run).of(PreviewMade)
    assert [len(event.probes) for event in made] == [1, 1, 1]


def test_a_folder_that_is_gone_is_told_once_and_the_rest_is_drawn(
    new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    run = new_run(**SETS, **{"validation.pictures_folder": str(tmp_path / "gone"), "validation.probes": 1})
    worker = Worker(ready_workspace, run)
    assert worker.outcome == "completed"
    told = [message for message in worker.of(Message) if "own test pictures were not found" in message.text]
    assert len(told) == 1 and told[0].level == "warning"
    assert all(event.pictures and event.probes for event in worker.of(PreviewMade))


def test_a_prompt_of_the_users_that_is_too_long_is_told_once(new_run: RunFactory, ready_workspace: Workspace) -> None:
    long = "a very long prompt about circles " * 20
    settings = {"validation.prompts": f"a short one\n{long}", "validation.probes": 0, "train.steps": 3}
    worker = Worker(ready_workspace, new_run(**SETS, **settings))
    (told,) = [message for message in worker.of(Message) if "longer than the base reads" in message.text]
    assert "a very long prompt" in told.text and told.level == "warning"
    assert all(len(event.probes) == 2 for event in worker.of(PreviewMade))
