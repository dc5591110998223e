"""A step on a card reads nothing back: the optimizer's kernel clips or skips, and losses are read several at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.distributed.group import ALONE
from engine.distributed.parallel import Parallel
from engine.errors import UserError
from engine.jobs.control import Control
from engine.jobs.events import CheckpointSaved, StepDone, StepSkipped
from engine.nets.compact_weights import CompactMasterWeights
from engine.nets.master_weights import MasterWeightSync
from engine.training import losses, step
from engine.training.faults import take_step
from engine.training.job import build_trainer
from engine.training.loss_scale import LossScale
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint
from tests.short_runs import RunFactory, train

NAN, INF = float("nan"), float("inf")
READING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's fused AdamW skips as a card's does."""
    monkeypatch.setattr(Parallel, "card_skips", True)
    monkeypatch.setattr(losses, "READ_EVERY_ELSEWHERE", losses.READ_EVERY_ON_CARD)


class Reads(TorchDispatchMode):
    """Counts what makes the processor wait for a card's values."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in READING:
            self.seen[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    with monkeypatch.context() as patched, Reads() as counted:
        for name in ("tolist", "numpy", "cpu"):  # which do not pass through the dispatcher on a processor
            real = getattr(torch.Tensor, name)

            def counting(tensor: torch.Tensor, *given: Any, name: str = name, real: Any = real) -> Any:
                counted.seen[name] += 1
                return real(tensor, *given)

            patched.setattr(torch.Tensor, name, counting)
        yield counted


def net_and_run(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[torch.nn.Linear, Any]:
    net = torch.nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, -1.0]])
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
    trainable = SimpleNamespace(parameters=lambda: list(net.parameters()), weights=MasterWeightSync(net, torch.float32))
    accelerator = SimpleNamespace(_optimizers=[], prepare_optimizer=lambda one: one)
    return net, SimpleNamespace(
        group=ALONE, trainable=trainable, accelerator=accelerator, device=torch.device(device), dtype=dtype,
        optimizer=optimizer, step=0,
    )  # fmt: skip


def test_who_skips_on_the_card() -> None:
    def skips(change: Any = lambda run: None, **how: Any) -> bool:
        _, run = net_and_run(device="cuda", **how)
        run.trainable.parameters = lambda: [SimpleNamespace(device=torch.device("cuda"))]
        change(run)
        return Parallel(run, str).card_skips

    assert skips() and skips(dtype=torch.bfloat16)
    assert not skips(dtype=torch.float16), "the same batch is tried again at a smaller scale"
    assert not skips(lambda run: setattr(run, "device", torch.device("cpu")))
    assert not skips(lambda run: setattr(run, "group", SimpleNamespace(world_size=2)))
    plain = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    assert not skips(lambda run: setattr(run, "optimizer", plain)), "Adafactor and 8 bits neither"
    in_ram = [torch.nn.Parameter(torch.ones(1))]
    assert not skips(lambda run: setattr(run.trainable, "parameters", lambda: in_ram)), "offload"
    split = CompactMasterWeights(torch.nn.Linear(2, 2), torch.bfloat16, "split")
    assert not skips(lambda run: setattr(run.trainable, "weights", split)), "updated in parts"


def test_the_kernel_clips_and_skips_as_the_processor_would(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        ([3.0, 4.0], 0.5), ([NAN, 1.0], 0.5), ([0.03, 0.04], NAN),
        ([0.03, -0.04], 0.1), ([INF, 1.0], INF), ([1.0, 2.0], 1.0),
    ]  # fmt: skip
    weights, kinds = [], []
    for on_card in (False, True):
        monkeypatch.setattr(Parallel, "card_skips", on_card)
        net, run = net_and_run()
        parallel = Parallel(run, str)
        parallel.wrap_optimizer()
        seen = []
        for gradient, value in steps:
            net.weight.grad, loss = torch.tensor([gradient]), torch.tensor(value)
            finite = parallel.unscale_and_clip(loss, 0.5, 1.0)
            if on_card:
                assert finite == (True, True), "it does not know"
                outcome = losses.read_losses(SimpleNamespace(loss_scale=LossScale("bf16")), [(1, loss)])[0]
                kinds.append(outcome.not_finite if isinstance(outcome, step.Skipped) else "")
            if on_card or (finite.loss and finite.gradients):
                parallel.optimizer_step()
            seen.append(net.weight.detach().clone())
        (state,) = run.optimizer.state.values()
        assert int(state["step"]) == 3 and not any(value.isnan().any() for value in state.values())
        weights.append(torch.stack(seen))
    assert torch.allclose(*weights, rtol=1e-6, atol=1e-7)
    assert torch.equal(weights[1][0], weights[1][1]) and torch.equal(weights[1][1], weights[1][2])
    assert kinds == ["", "gradients", "loss", "", "loss", ""]


def test_a_step_reads_nothing_and_ten_are_read_together(
    new_run: RunFactory, ready_workspace: Workspace, as_on_a_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(**{"train.precision": "bf16", "optim.ema_decay": 0.9, "objective.min_snr_gamma": 5.0})
    events: list[Any] = []
    trainer = build_trainer(ready_workspace, run, Control().token, events.append)
    state = trainer.state
    batch = state.next_batch(0)
    monkeypatch.setattr(type(state), "next_batch", lambda self, micro: batch)
    with reads(monkeypatch) as counted:
        for number in range(1, 11):
            loss = take_step(state)
            assert isinstance(loss, torch.Tensor)
            state.step_done()
            assert not counted.seen, f"step {number}"
            trainer.losses.add(1e-4, 0.5, loss)
            if number < 10:
                assert not counted.seen and not [one for one in events if isinstance(one, StepDone)]
        assert counted.seen == {"tolist": 1}
    done = [one for one in events if isinstance(one, StepDone)]
    assert [one.step for one in done] == list(range(1, 11))
    assert all(0.5 <= one.seconds < 1 for one in done), "with the time that the card worked while it was waited for"
    monkeypatch.setattr(Parallel, "card_skips", False)
    with reads(monkeypatch) as counted:
        take_step(state)
    assert counted.seen == {"tolist": 1}, "what a step waits for otherwise, so the count can fail"
    trainer.close()


@pytest.mark.answers("A step was skipped, or the loss became NaN")
def test_skipped_steps_are_exact_and_noted_with_their_images_though_they_are_read_later(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    settings = {"train.steps": 8, "optim.max_grad_norm": 1e9, "train.checkpoint_every": 5, "train.precision": "bf16"}
    real, calls = step.denoising_loss, [0]

    def breaks(*given: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return real(*given) * (NAN if calls[0] in (3, 4, 7) else 1)

    monkeypatch.setattr(step, "denoising_loss", breaks)
    at_once = new_run(**settings)
    plain = train(ready_workspace, at_once)
    calls[0] = 0
    request.getfixturevalue("as_on_a_card")
    later_run = new_run(**settings)
    later = train(ready_workspace, later_run)
    assert [one.step for one in later.of(StepSkipped)] == [3, 4, 7]
    assert later.of(StepSkipped) == plain.of(StepSkipped) and later.warnings == plain.warnings
    figures = [[(one.step, one.loss, one.learning_rate) for one in run.of(StepDone)] for run in (plain, later)]
    assert figures[0] == figures[1] and len(figures[0]) == 5
    known = [event for event in later.events if isinstance(event, StepSkipped | CheckpointSaved)]
    assert [one.step for one in known][:2] == [3, 4], "a checkpoint says what was skipped before it"
    for one, other in zip(at_once.checkpoints(), later_run.checkpoints(), strict=True):
        assert_same_checkpoint(one.folder, other.folder)
        (state,) = other.folder.glob("training_state/state.json")
        assert json.loads(state.read_text("utf-8"))["scaler"]["skipped"] == ([3, 4, 7] if one.step == 8 else [3, 4])


@pytest.mark.answers("A step was skipped, or the loss became NaN")
def test_a_run_that_breaks_is_ended_when_that_is_read(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, as_on_a_card: None
) -> None:
    run = new_run(**{"train.steps": 12})
    real, calls = step.denoising_loss, [0]

    def breaks(*given: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return real(*given) * (NAN if calls[0] > 2 else 1)

    monkeypatch.setattr(step, "denoising_loss", breaks)
    with pytest.raises(UserError, match=r"step 7: 5 steps in a row were skipped.*\n?.*The state of step 2 is good"):
        train(ready_workspace, run)
    assert calls[0] == 10 and run.last_step == 2
