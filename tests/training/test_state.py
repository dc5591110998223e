"""The state of a run: made by hand, without a base model, a dataset or a thread."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.config import RunConfig, parse
from engine.disk.retry import DiskRetry
from engine.disk.watchdog import DiskWatchdog
from engine.distributed.group import ALONE
from engine.distributed.parallel import Parallel
from engine.errors import DataGone, UserError
from engine.jobs.control import Control
from engine.jobs.events import Event, Message
from engine.nets.ema import build_ema
from engine.training import oom
from engine.training.loss_scale import LossScale
from engine.training.optim import build_optimizer
from engine.training.state import TrainState
from engine.tuning.controlnet import WholeControlNet
from engine.tuning.trainable import Placement

CPU = torch.device("cpu")


def make(folder: Path, events: list[Event], **settings: dict[str, Any]) -> TrainState:
    """A run of a net with one layer."""
    config: RunConfig = parse({"optim": {"ema_decay": 0.5, "learning_rate": 0.1}, **settings})
    net, nothing = torch.nn.Linear(3, 2), SimpleNamespace()
    trainable, control = WholeControlNet(net, Placement(CPU, torch.bfloat16)), Control()
    accelerator: Any = SimpleNamespace(
        prepare_model=lambda one: one,
        prepare_optimizer=lambda one: one,
        _optimizers=SimpleNamespace(remove=lambda one: None),
    )
    history: Any = events.append
    some: Any = nothing
    state = TrainState(
        run_folder=folder,
        config=config,
        token=control.token,
        history=history,
        group=ALONE,
        about={},
        retry=DiskRetry(folder, control.token, events.append),
        watchdog=DiskWatchdog(events.append),
        accelerator=accelerator,
        device=CPU,
        precision="bf16",
        dtype=torch.bfloat16,
        loss_scale=LossScale("bf16"),
        base="",
        family=some,
        denoiser=net,
        noise_process=some,
        latent_space=some,
        trainable=trainable,
        optimizer=build_optimizer(net, config.optim),
        ema=build_ema(trainable.averaged, config.optim),
        dataset=some,
        samples=[],
        held_out=[],
        plan=some,
        cache=some,
        images_at_once=4,
    )
    state.parallel = Parallel(state, str)
    state.parallel.prepare()
    state.batches = some
    return state


def test_master_weights_gradients_and_average_go_their_ways(tmp_path: Path) -> None:
    state = make(tmp_path, [], optim={"ema_decay": 0.5, "learning_rate": 0.1, "half_gradients": False})
    before = [weight.detach().clone() for weight in state.trainable.parameters()]
    state.trainable.control_net(torch.ones(4, 3, dtype=torch.bfloat16)).sum().backward()
    gradients = [weight.grad for weight in state.trainable.parameters()]
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)
    with state.weights_update():
        state.parallel.optimizer_step()
    state.trainable.weights.refresh()
    state.update_ema()
    for was, master, copy in zip(
        before, state.trainable.parameters(), state.trainable.control_net.parameters(), strict=True
    ):
        assert not torch.equal(was, master) and torch.equal(copy, master.bfloat16())
    masters = [weight.detach().clone() for weight in state.trainable.parameters()]
    state.ema.shadow_params[0].add_(1.0)  # type: ignore[union-attr]  # after one step it equals the weights
    with state.exported_weights() as averaged:
        assert torch.equal(averaged.weight, state.ema.shadow_params[0].bfloat16())  # type: ignore[union-attr]
        assert all(map(torch.equal, masters, state.trainable.parameters())), "they are not needed for that"
    assert torch.equal(state.trainable.control_net.weight, state.trainable.master.weight.bfloat16())
    state.drop_gradients()
    assert all(weight.grad is None for weight in state.trainable.parameters())


def test_an_optimizer_step_that_failed_is_known_as_such(tmp_path: Path) -> None:
    state = make(tmp_path, [])
    with pytest.raises(RuntimeError), state.weights_update():
        raise RuntimeError("in the middle")
    assert state.updating_weights
    with state.weights_update():
        pass
    assert not state.updating_weights


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_no_weight_is_updated_twice_after_a_fallback_in_the_middle_of_an_update(optimizer: str, tmp_path: Path) -> None:
    """Whether the retry continues with the same optimizer or with a fresh one, whose state knows of no updates."""
    state = make(tmp_path, [])
    state.batches = SimpleNamespace(split=lambda *given: None)  # type: ignore[assignment]
    weight, bias = state.trainable.parameters()

    def gradients() -> None:
        weight.grad, bias.grad = torch.ones_like(weight), torch.ones_like(bias)

    gradients()
    with state.weights_update():
        state.parallel.optimizer_step()
    gradients()
    with pytest.raises(torch.OutOfMemoryError), state.weights_update():
        bias.grad = None
        state.parallel.optimizer_step()
        raise torch.OutOfMemoryError("after the weight, before the bias")
    smaller = {"train.batch_size": 1, "train.accumulation": 4}
    oom.apply(state, oom.Fallback(smaller if optimizer == "adamw" else {"optim.optimizer": optimizer}, "less"))
    updated, waiting = weight.detach().clone(), bias.detach().clone()
    gradients()
    with state.weights_update():
        state.parallel.optimizer_step()
    assert torch.equal(weight, updated) and not torch.equal(bias, waiting)

    # The next step has nothing left of that: both are updated, also if it is interrupted before the first of them.
    gradients()
    with pytest.raises(torch.OutOfMemoryError), state.weights_update():
        raise torch.OutOfMemoryError("before the weight")
    updated, waiting = weight.detach().clone(), bias.detach().clone()
    gradients()
    with state.weights_update():
        state.parallel.optimizer_step()
    assert not torch.equal(weight, updated) and not torch.equal(bias, waiting)


def test_a_fallback_splits_the_master_weights_and_the_training_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    found = []
    for splits in (True, False):
        torch.manual_seed(0)
        state = make(tmp_path, [])
        state.batches = SimpleNamespace(split=lambda *given: None)  # type: ignore[assignment]
        for step in range(3):
            state.trainable.control_net(torch.ones(4, 3, dtype=torch.bfloat16)).sum().backward()
            with state.weights_update():
                state.parallel.optimizer_step()
            state.trainable.weights.refresh()
            state.update_ema()
            if splits and not step:
                oom.apply(state, oom.Fallback({"optim.master_weights": "split"}, "less"))
                assert all(weight.isnan().all() for weight in state.trainable.parameters())
                assert not state.trainable.weights.can_split
            state.drop_gradients()
        found.append([*state.trainable.weights.read(state.trainable.parameters()), *state.ema.shadow_params])  # type: ignore[union-attr]
        state.keep_optimizer_in_ram()
        assert all(map(torch.equal, found[-1], state.trainable.parameters())), "and whole again where they are in RAM"
    assert all(map(torch.equal, *found))


def test_a_fallback_replaces_the_optimizer_and_keeps_the_rate(tmp_path: Path) -> None:
    events: list[Event] = []
    state = make(tmp_path, events)
    state.batches = SimpleNamespace(split=lambda *given: None)  # type: ignore[assignment]
    state.set_learning_rate(0.025)
    oom.apply(state, oom.Fallback({"optim.optimizer": "adafactor"}, "less"))
    assert type(state.optimizer).__name__ == "Adafactor" and state.config.optim.optimizer == "adafactor"
    assert state.parallel.optimizer is state.optimizer
    assert {group["lr"] for group in state.optimizer.param_groups} == {0.025}


def test_a_batch_that_is_gone_ends_the_run_in_words(tmp_path: Path) -> None:
    events: list[Event] = []
    state = make(tmp_path, events)
    missing = UserError("The map of 07 is gone.", "It was moved.", "Bring it back.")

    def get(number: int) -> Any:
        state.token.adopt_stop("stop")
        raise OSError(5, "Input/output error") if number else missing

    state.batches = SimpleNamespace(get=get)  # type: ignore[assignment]
    with pytest.raises(UserError, match="map of 07"):
        state.next_batch(0)
    assert not [event for event in events if isinstance(event, Message)]
    assert issubclass(DataGone, UserError)
