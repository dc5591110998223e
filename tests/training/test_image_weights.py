"""Loss weights of images: equal ones change no bit, others multiply each image's share of loss and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from engine.config.migrate import of_a_run
from engine.data.dataset import Dataset
from engine.jobs.control import Control
from engine.jobs.events import Message
from engine.training.job import build_trainer
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run, flat, step_gradients
from tests.short_runs import RunFactory, train

ONE_IMAGE = {"train.batch_size": 1, "optim.max_grad_norm": 1e9}

WeighAll = Callable[[Callable[[int], float]], None]


@pytest.fixture
def weigh(ready_workspace: Workspace) -> WeighAll:
    """Gives each image of the dataset "pairs" the weight that a function of its number returns."""

    def change(weight: Callable[[int], float]) -> None:
        index = Dataset.open(ready_workspace.dataset_folder("pairs")).index
        index.write([replace(one, weight=weight(number)) for number, one in enumerate(index.samples())], [])

    return change


@pytest.fixture
def first_step(new_run: RunFactory, ready_workspace: Workspace) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Loss and gradients of the first step of a new run."""

    def step(**settings: object) -> tuple[torch.Tensor, torch.Tensor]:
        trainer = build_trainer(ready_workspace, new_run(**settings), Control().token, lambda event: None)
        loss, gradients = step_gradients(trainer.state)
        trainer.close()
        return loss, flat(gradients)

    return step


def test_weights_multiply_loss_and_gradients(weigh: WeighAll, first_step: Callable[..., tuple]) -> None:
    loss, gradients = first_step(**ONE_IMAGE)
    weigh(lambda number: 1.0)
    equal = first_step(**ONE_IMAGE)
    assert torch.equal(equal[0], loss) and torch.equal(equal[1], gradients)
    weigh(lambda number: 4.0)
    heavy = first_step(**ONE_IMAGE)
    assert torch.equal(heavy[0], 4 * loss) and torch.equal(heavy[1], 4 * gradients), "a power of two rounds nothing"
    off = first_step(**ONE_IMAGE, **{"objective.image_weights": False})
    assert torch.equal(off[0], loss) and torch.equal(off[1], gradients)


def test_an_image_of_weight_0_teaches_nothing(weigh: WeighAll, first_step: Callable[..., tuple]) -> None:
    weigh(lambda number: 0.0)
    loss, gradients = first_step()
    assert loss == 0 and not gradients.any()


def test_a_resumed_run_has_the_same_weights(weigh: WeighAll, new_run: RunFactory, ready_workspace: Workspace) -> None:
    weigh(lambda number: 0.25 * number)
    straight, paused = new_run(), new_run()
    trained = train(ready_workspace, straight)
    assert "a loss weight other than 1" in " ".join(message.text for message in trained.of(Message))
    assert train(ready_workspace, paused, at_step={3: "pause"}).outcome == "paused"
    train(ready_workspace, paused)
    assert_same_run(straight, paused)


def test_runs_of_before_continue_without_weights() -> None:
    assert of_a_run({"objective": {}})["objective"]["image_weights"] is False
