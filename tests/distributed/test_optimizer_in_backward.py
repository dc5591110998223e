"""Updates in the backward pass: the bits of the ordinary step, in every way that weights are kept."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from engine.config import OptimConfig, RunConfig, parse
from engine.distributed.group import ALONE
from engine.distributed.optimizer_in_backward import OptimizerInBackward, check_optimizer_in_backward
from engine.distributed.parallel import Parallel
from engine.errors import UserError
from engine.nets.lora import LoraLinear
from engine.training.optim import build_optimizer
from engine.tuning import facts
from engine.tuning.trainable import Placement
from tests.nets.test_offload import LateCopier

CPU = torch.device("cpu")
NEVER = 1e9
"""A limit for gradients that none of them reaches."""


class Lora(LoraLinear):
    """A layer over a frozen weight."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.weight.requires_grad_(False)
        self.up, self.down = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 8))


def new_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 8), Lora())


class FakeRun:
    """What a strategy knows of a run, around a small net."""

    def __init__(
        self, master: nn.Sequential, place: Placement, optimizer: str, limit: float, half: bool = True
    ) -> None:
        self.trainable: Any = self
        self.group, self.accelerator, self.device, self.dtype, self.step = ALONE, self, CPU, place.dtype, 0
        self.config: RunConfig = parse({"optim": {"max_grad_norm": limit, "half_gradients": half}})
        master[-1].weight.data = master[-1].weight.data.to(place.dtype)  # the base's
        self.master, self.weights = master, place.sync(master)
        settings = OptimConfig(optimizer=optimizer, learning_rate=1e-2)  # type: ignore[arg-type]
        self.optimizer = build_optimizer(master, settings)
        self.most = 0
        """Numbers of gradients that existed together."""
        self.updated: set[nn.Parameter] = set()
        """By a failed try of the present step."""
        self.weights.refresh()

    def parameters(self) -> list[nn.Parameter]:
        return list(self.master.parameters())

    def new_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        raise NotImplementedError

    @contextmanager
    def weights_update(self) -> Iterator[set[nn.Parameter]]:
        yield self.updated

    # In place of accelerate.

    def prepare_model(self, net: Any) -> Any:
        return net

    def prepare_optimizer(self, optimizer: Any) -> Any:
        return optimizer

    def backward(self, loss: torch.Tensor) -> None:
        for parameter in {*self.master.parameters(), *self.weights.compute.parameters()}:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._count)
        loss.backward()

    def _count(self, parameter: torch.Tensor) -> None:
        nets = {*self.master.parameters(), *self.weights.compute.parameters()}
        self.most = max(self.most, sum(p.grad.numel() for p in nets if p.grad is not None))


def train(
    strategy: type[Parallel],
    place: Placement,
    optimizer: str = "adamw",
    limit: float = NEVER,
    steps: int = 4,
    damage: Any = None,
    prepare: Any = None,
    half: bool = True,
) -> tuple[list[torch.Tensor], FakeRun, list[Any]]:
    """A few steps. Returns weights, compute copy and the optimizer's state; the run; and what was finite."""
    run = FakeRun(new_net(), place, optimizer, limit, half)
    parallel = strategy(run, str)
    if prepare is not None:
        prepare(run)
    parallel.prepare()
    draws, found = torch.Generator().manual_seed(5), []
    for step in range(steps):
        run.step = step
        inputs = torch.randn(4, 3, 6, 6, generator=draws).to(place.dtype)
        parallel.begin_step()
        with parallel.micro_batch(last=True):
            loss = run.weights.compute(inputs).float().square().mean()
            if damage is not None:
                loss = damage(step, run, loss)
            parallel.backward(loss)
        loss = parallel.average_gradients_and_loss(loss.detach())
        finite = parallel.unscale_and_clip(loss, limit, 1.0)
        found.append(finite)
        if finite.loss and finite.gradients:
            parallel.optimizer_step()
            parallel.zero_grad()
            run.weights.refresh()
        else:
            parallel.zero_grad()
            run.weights.drop_gradients()
    run.weights.finish_gradients()
    with run.weights.whole_weights():
        tensors = [p.detach().clone() for net in (run.master, run.weights.compute) for p in net.parameters()]
    states = [run.optimizer.state[p] for p in run.parameters() if p in run.optimizer.state]
    tensors += [torch.as_tensor(value) for state in states for value in state.values()]
    return tensors, run, found


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


PLACES = {
    "fp32": Placement(CPU, torch.float32),
    "bf16": Placement(CPU, torch.bfloat16),
    "split": Placement(CPU, torch.bfloat16, master_weights="split"),
    "none": Placement(CPU, torch.bfloat16, master_weights="none"),
    "in RAM": Placement(CPU, torch.bfloat16, in_ram=True),
}


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "adamw8bit"])
@pytest.mark.parametrize("kept", PLACES)
def test_the_updates_are_those_of_the_ordinary_step(kept: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "8bit" in optimizer:
        pytest.importorskip("bitsandbytes", minversion="0.50")
    monkeypatch.setattr(facts, "UPDATED_TOGETHER", 100)
    ordinary, before, _ = train(Parallel, PLACES[kept], optimizer, half=optimizer != "adamw")
    found, run, _ = train(OptimizerInBackward, PLACES[kept], optimizer)
    assert same(ordinary, found)
    largest, everything = 8 * 8 * 9, sum(p.numel() for p in run.parameters() if p.requires_grad)
    assert before.most >= everything
    assert run.most <= 100 + largest < 0.8 * everything, "the gradients never exist together"


@pytest.mark.parametrize("looks", [0, 3, 10**6])
def test_in_ram_weights_are_updated_and_sent_back_as_their_gradients_arrive(
    looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "UPDATED_TOGETHER", 100)
    threads, sent = set(), []

    class Copier(LateCopier):
        def to_card(self, weight: torch.Tensor, copy: torch.Tensor) -> Any:
            sent.append(weight.shape)
            return super().to_card(weight, copy)

    def late(run: FakeRun) -> None:
        run.weights.offload.copier = Copier(looks)
        real = run.optimizer.step

        def step() -> None:
            threads.add(threading.current_thread().name)
            assert sum(len(group["params"]) for group in run.optimizer.param_groups) < 9, "only those of the part"
            real()

        run.optimizer.step = step  # type: ignore[method-assign, assignment]

    ordinary, run, _ = train(Parallel, PLACES["in RAM"])
    found, *_ = train(OptimizerInBackward, PLACES["in RAM"], prepare=late)
    assert same(ordinary, found)
    assert len(threads) == 1 and threads != {threading.current_thread().name}
    assert len(sent) == 4 * len(run.weights.master_of), "each weight once in each step"


def test_an_update_in_ram_that_fails_ends_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: FakeRun) -> None:
        run.weights.offload.copier = LateCopier(0)
        monkeypatch.setattr(run.optimizer, "step", lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        train(OptimizerInBackward, PLACES["in RAM"], prepare=broken)


def test_each_gradient_is_clipped_by_its_own_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGD's updates are proportional to the gradients."""

    def with_sgd(run: FakeRun) -> None:
        run.optimizer = torch.optim.SGD(run.master.parameters(), lr=1.0)

    before = [p.detach().clone() for p in new_net().parameters()]
    free, *_ = train(OptimizerInBackward, PLACES["fp32"], steps=1, prepare=with_sgd)
    norms = [float((one - was).norm()) for one, was in zip(free, before, strict=False)]
    limit = sorted(norm for norm in norms if norm)[4]
    clipped, *_ = train(OptimizerInBackward, PLACES["fp32"], limit=limit, steps=1, prepare=with_sgd)
    found = [float((one - was).norm()) for one, was in zip(clipped, before, strict=False)]
    assert found == pytest.approx([min(norm, limit) for norm in norms], rel=1e-4)
    assert max(norms) > 2 * limit


def test_a_step_whose_loss_is_not_finite_changes_nothing() -> None:
    calm, *_ = train(OptimizerInBackward, PLACES["split"], steps=3)
    found, _, finite = train(
        OptimizerInBackward, PLACES["split"], damage=lambda step, run, loss: loss * (float("nan") if step == 3 else 1)
    )
    assert [one.loss for one in finite] == [True, True, True, False] and same(calm, found)


def test_a_gradient_that_is_not_finite_counts_as_zero_and_the_step_as_skipped() -> None:
    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, loss: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return loss.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
            return gradient, torch.full((8,), torch.inf)

    def damage(step: int, run: FakeRun, loss: torch.Tensor) -> torch.Tensor:
        return Overflow.apply(loss, list(run.weights.compute.parameters())[1]) if step == 2 else loss

    for kept in ("fp32", "bf16", "split"):
        tensors, run, finite = train(OptimizerInBackward, PLACES[kept], damage=damage)
        assert [one.gradients for one in finite] == [True, True, False, True]
        assert all(tensor.isfinite().all() for tensor in tensors)
        counts = {int(state["step"]) for state in run.optimizer.state.values()}
        assert counts == {4}, "all weights have taken part in every step"
        with run.weights.whole_weights():
            copies, masters = run.weights.compute.parameters(), run.master.parameters()
            assert all(map(torch.allclose, [c.float() for c in copies], [m.to(run.dtype).float() for m in masters]))


def test_weights_that_a_failed_try_has_updated_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With master weights beside the copy that computes, the repeated step even has the same bits."""
    monkeypatch.setattr(facts, "UPDATED_TOGETHER", 1)
    ordinary, *_ = train(Parallel, PLACES["bf16"], steps=3)

    run = FakeRun(new_net(), PLACES["bf16"], "adamw", NEVER)
    parallel, draws = OptimizerInBackward(run, str), torch.Generator().manual_seed(5)
    parallel.prepare()
    real, calls = run.optimizer.step, []

    def step_that_fails_once() -> None:
        calls.append(1)
        if len(calls) == 2 * trained + 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real()

    trained = sum(p.requires_grad for p in run.parameters())
    parallel.optimizer.step = step_that_fails_once
    for number in range(3):
        run.step, inputs = number, torch.randn(4, 3, 6, 6, generator=draws).bfloat16()
        for attempt in range(2):
            parallel.begin_step()
            try:
                parallel.backward(run.weights.compute(inputs).float().square().mean())
                break
            except torch.OutOfMemoryError:
                assert (number, attempt) == (2, 0)
                run.updated |= {p for p in run.optimizer.state if int(run.optimizer.state[p]["step"]) == number + 1}
                assert len(run.updated) == 3
                for parameter in run.parameters():
                    parameter.grad = None
                run.weights.drop_gradients()
        run.updated.clear()
        run.weights.refresh()
    assert len(calls) == 3 * trained + 1
    assert same(ordinary[: len(run.parameters())], [p.detach() for p in run.parameters()])


def test_a_net_holds_no_reference_to_its_run() -> None:
    """Else its memory would be freed only when the garbage collector finds it."""
    run = FakeRun(new_net(), PLACES["bf16"], "adamw", NEVER)
    parallel = OptimizerInBackward(run, str)
    parallel.prepare()
    alive = weakref.ref(parallel)
    del parallel
    assert alive() is None
    run.weights.compute(torch.ones(1, 3, 6, 6).bfloat16()).sum().backward()


def test_what_cannot_be_updated_in_the_backward_pass_is_refused_in_words() -> None:
    for name, value in (("accumulation", 2), ("compile", "kernels")):
        with pytest.raises(UserError, match=f"set train.{name} to"):
            parse({"optim": {"in_backward": True}, "train": {name: value}})
    config = parse({"optim": {"in_backward": True}, "train": {"precision": "bf16"}})
    check_optimizer_in_backward(config, torch.bfloat16, 1)
    with pytest.raises(
        UserError, match="2 processes share it.*bf16 was requested, but at least one card does not support it"
    ):
        check_optimizer_in_backward(config, torch.float16, 2)
    with pytest.raises(UserError, match="It computes in fp16, where"):
        check_optimizer_in_backward(parse({"optim": {"in_backward": True}}), torch.float16, 1)
