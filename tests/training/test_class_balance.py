"""Class balance in a run: small folders are drawn as often as large ones, and a resumed run goes on exactly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.jobs.control import Control
from engine.jobs.events import Message
from engine.training.job import build_trainer
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import RunFactory, train

SIZES = {"4_cats": 2, "1_dogs": 8}


@pytest.fixture
def folders(ready_workspace: Workspace, tmp_path: Path) -> dict[str, object]:
    """Settings of a run on images in two folders, without control images, such as a LoRA learns from."""
    generator = np.random.default_rng(0)
    for name, count in SIZES.items():
        (tmp_path / "animals" / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "animals" / name / f"{number}.png")
    Dataset.create(ready_workspace, "animals", scan_folder(tmp_path / "animals"))
    return {"data.dataset": "animals", "data.held_out": 1, "data.held_out_choice": "random", "tuning.what": "lora"}


@pytest.mark.parametrize("balance", ["off", "folder", "repeats", "word"])
def test_small_classes_are_drawn_more_often(
    balance: str, folders: dict[str, object], new_run: RunFactory, ready_workspace: Workspace
) -> None:
    words = {"data.balance_words": "cats, dogs"} if balance == "word" else {}  # the folders' names are the captions
    events: list[object] = []
    run = new_run(**folders, **words, **{"data.balance": balance, "train.batch_size": 1})
    trainer = build_trainer(ready_workspace, run, Control().token, events.append)
    state = trainer.state
    kept = Counter(sample.key.split("/")[0] for sample in state.samples[: state.trained_samples])
    cats, dogs = (kept[name] for name in SIZES)
    wanted = {"off": (cats, dogs), "repeats": (4 * cats, dogs)}.get(balance, (dogs, dogs))
    drawn = Counter(state.batches.keys(step)[0].split("/")[0] for step in range(sum(wanted)))
    trainer.close()
    assert (drawn["4_cats"], drawn["1_dogs"]) == wanted
    told = [event.text for event in events if isinstance(event, Message) and "Class balance" in event.text]
    assert len(told) == (balance != "off")


def test_a_resumed_run_draws_what_an_uninterrupted_one_draws(
    folders: dict[str, object], new_run: RunFactory, ready_workspace: Workspace
) -> None:
    settings = {**folders, "data.balance": "folder", "data.crop": "random"}
    straight, paused = new_run(**settings), new_run(**settings)
    train(ready_workspace, straight)
    assert train(ready_workspace, paused, at_step={3: "pause"}).outcome == "paused"
    train(ready_workspace, paused)
    assert_same_run(straight, paused)
