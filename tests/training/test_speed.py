"""Attention, channels last and compiling: used where they work, skipped with one line where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from engine.config import parse
from engine.errors import UserError
from engine.jobs.control import Control
from engine.jobs.events import Event, Message
from engine.nets import compiled_adamw
from engine.nets.compact_weights import CompactMasterWeights
from engine.nets.low_precision_matmul import EightBitLinear, Fp16AccumulationLinear
from engine.training import speed
from engine.training.faults import take_step
from engine.training.hooks import Hooks
from engine.training.job import build_trainer
from engine.training.loss_checks import LossChecks
from engine.training.state import TrainState
from engine.training.trainer import Trainer
from engine.workspace.paths import Workspace
from tests.compare_runs import flat, step_gradients
from tests.short_runs import RunFactory, checked


class Compiled(torch.nn.Module):
    """Stands in for what torch.compile returns."""

    fault: BaseException | None = None
    calls = 0

    def __init__(self, net: Any) -> None:
        super().__init__()
        self._orig_mod, self.dtype = net, net.dtype

    def forward(self, *arguments: Any, **named: Any) -> Any:
        Compiled.calls += 1
        if Compiled.fault is not None:
            raise Compiled.fault
        return self._orig_mod(*arguments, **named)


@pytest.fixture
def build(new_run: RunFactory, ready_workspace: Workspace) -> Iterator[Callable[..., tuple[TrainState, list[str]]]]:
    built: list[Trainer] = []

    def make(**settings: Any) -> tuple[TrainState, list[str]]:
        messages: list[str] = []

        def hear(event: Event) -> None:
            if isinstance(event, Message) and event.level == "warning":
                messages.append(event.text)

        made = build_trainer(ready_workspace, checked(new_run(**settings)), Control().token, hear)
        built.append(made)
        return made.state, messages

    yield make
    for made in built:
        made.close()


@pytest.fixture
def pretended_compiler(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    modes: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda net, mode: modes.append(mode) or Compiled(net))
    monkeypatch.setattr(Compiled, "fault", None)
    monkeypatch.setattr(Compiled, "calls", 0)
    return modes


def test_without_a_card_attention_stays_torchs_and_one_line_reports_it(build: Callable) -> None:
    made, messages = build(**{"train.attention": "xformers"})
    assert messages == [
        "xformers is not used (it runs only on NVIDIA graphics cards); PyTorch's own attention is used."
    ]
    assert isinstance(take_step(made), torch.Tensor)


@pytest.mark.answers("accelerate, DeepSpeed, xformers, bitsandbytes, triton, chardet: what do I need?")
def test_xformers_that_does_not_fit_this_torch_leaves_torchs_attention(
    build: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, messages = build()
    before = {name: type(one) for name, one in made.denoiser.attn_processors.items()}
    made.config = made.config.model_copy(
        update={"train": made.config.train.model_copy(update={"attention": "xformers"})}
    )
    monkeypatch.setattr(made.accelerator.state, "device", torch.device("cuda"))
    made.device = torch.device("cuda")
    for found, words in ((None, "not installed"), (object(), "xformers is not used (")):
        monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name, found=found: found)
        speed.set_attention_and_layout(made)
        assert words in messages[-1] and "\n" not in messages[-1]
    assert {name: type(one) for name, one in made.denoiser.attn_processors.items()} == before
    made.device = torch.device("cpu")


def test_channels_last_learns_the_same_and_keeps_what_is_saved_as_ever(build: Callable) -> None:
    for precision, similarity in (("fp32", 0.99999), ("bf16", 0.995)):
        plain, _ = build(**{"train.precision": precision})
        turned, messages = build(**{"train.precision": precision, "train.channels_last": True})
        kernel = turned.denoiser.conv_in.weight
        assert kernel.is_contiguous(memory_format=torch.channels_last) and messages == []
        found = step_gradients(turned)[1]
        assert torch.nn.functional.cosine_similarity(flat(step_gradients(plain)[1]), flat(found), dim=0) > similarity
        assert all(tensor.is_contiguous() for tensor in (*turned.trainable.parameters(), *found.values()))
    assert turned.trainable.control_net.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(take_step(turned), torch.Tensor)
    assert turned.trainable.control_net.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_compiled_nets_take_the_steps(build: Callable, pretended_compiler: list[str]) -> None:
    made, messages = build(**{"train.compile": "graphs"})
    assert pretended_compiler == ["default", "default"]
    assert messages == ["CUDA graphs need an NVIDIA or AMD graphics card; the nets are compiled without them."]
    take_step(made)
    assert Compiled.calls == 2 and speed.is_compiled(made)
    assert not isinstance(made.denoiser, Compiled) and not isinstance(made.trainable.control_net, Compiled), (
        "images are plain"
    )


def test_a_net_that_does_not_compile_is_trained_as_it_is(build: Callable, pretended_compiler: list[str]) -> None:
    plain, _ = build()
    made, messages = build(**{"train.compile": "kernels"})
    Compiled.fault = RuntimeError("Failed to find a C++ compiler\nand much more")
    assert torch.equal(take_step(made), take_step(plain))
    assert messages == [
        "The nets could not be compiled (RuntimeError: Failed to find a C++ compiler); the run continues uncompiled."
    ]
    assert not speed.is_compiled(made)
    made.start_at(1)
    plain.start_at(1)
    assert torch.equal(take_step(made), take_step(plain))


def test_faults_that_are_not_the_compilers_stay_what_they_are(build: Callable, pretended_compiler: list[str]) -> None:
    made, messages = build(**{"train.compile": "kernels"})
    Compiled.fault = UserError("A map is gone.", "It was moved.", "Bring it back.")
    with pytest.raises(UserError, match="A map is gone"):
        take_step(made)
    assert messages == [] and speed.is_compiled(made)


def test_a_step_calls_the_compiled_blocks_of_both_nets_and_what_follows_it_none(
    build: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, stances = [0], []

    def pretend(block: torch.nn.Module, **how: Any) -> None:
        def call(*given: Any, **named: Any) -> Any:
            calls[0] += 1
            return block._call_impl(*given, **named)

        assert how == {"backend": "inductor", "dynamic": False}
        block._compiled_call_impl = call

    @contextmanager
    def stance(kind: str) -> Iterator[None]:
        stances.append(kind)
        yield

    monkeypatch.setattr(torch.nn.Module, "compile", pretend)
    monkeypatch.setattr(torch.compiler, "set_stance", stance)
    plain, _ = build()
    made, messages = build(**{"train.compile": "blocks"})
    both = (made.denoiser, made.trainable.control_net)
    owned = [sum(block in net.modules() for block in made.nets.blocks) for net in both]
    assert all(owned) and sum(owned) == len(made.nets.blocks) and speed.is_compiled(made)
    assert torch.equal(take_step(made), take_step(plain)) and calls == [sum(owned)]
    for state in (made, plain):
        state.start_at(1)
        Hooks(state, None, lambda: None).after_step()
    assert stances == ["force_eager"], "nothing that has other shapes is compiled, and a plain run asks for nothing"
    assert speed.go_on_uncompiled(made, RuntimeError("Failed to find a C++ compiler"))
    assert torch.equal(take_step(made), take_step(plain)) and calls == [sum(owned)] and not speed.is_compiled(made)
    assert messages == [
        "The nets could not be compiled (RuntimeError: Failed to find a C++ compiler); the run continues uncompiled."
    ]


def test_a_base_without_repeated_blocks_is_trained_as_it_is(build: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UNet2DConditionModel, "_repeated_blocks", [])
    made, messages = build(**{"train.compile": "blocks"})
    assert messages == ["The nets are not compiled: diffusers lists no repeated blocks for this base."]
    assert not speed.is_compiled(made) and isinstance(take_step(made), torch.Tensor)


@pytest.mark.long
def test_blocks_are_compiled_in_place_and_only_steps_use_them(build: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[int] = []  # calls of each

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(0)
        number = len(graphs) - 1

        def run(*given: Any) -> Any:
            graphs[number] += 1
            return graph(*given)

        return run

    monkeypatch.setattr(speed, "BACKEND", backend)
    plain, _ = build()
    made, messages = build(**{"train.compile": "blocks", "validation.check_every": 1})
    assert speed.is_compiled(made) and len(made.nets.blocks) > 2 and messages == []
    assert float(take_step(made)) == pytest.approx(float(take_step(plain)), rel=1e-5)
    assert graphs and sum(graphs) >= len(made.nets.blocks), "blocks of both nets"
    compiled, calls = len(graphs), sum(graphs)
    checks = LossChecks(made)
    with speed.uncompiled(made):
        assert checks.check_if_due(always=True)
    assert (len(graphs), sum(graphs)) == (compiled, calls), "checks and images have other shapes"
    made.start_at(1)
    plain.start_at(1)
    assert float(take_step(made)) == pytest.approx(float(take_step(plain)), rel=1e-4)
    assert sum(graphs) > calls and len(graphs) == compiled, "nothing is compiled again"
    speed.go_on_uncompiled(made, RuntimeError("Failed to find a C++ compiler"))
    calls = sum(graphs)
    take_step(made)
    assert sum(graphs) == calls and not speed.is_compiled(made)


@pytest.mark.long
def test_real_compiled_blocks_change_nothing_but_rounding(build: Callable) -> None:
    plain, _ = build()
    made, messages = build(**{"train.compile": "blocks", "train.gradient_checkpointing": "controlnet"})
    for step in range(2):
        plain.start_at(step)
        made.start_at(step)
        assert float(take_step(made)) == pytest.approx(float(take_step(plain)), rel=1e-4)
    assert messages == [] and speed.is_compiled(made)


@pytest.mark.long
def test_a_real_compiler_changes_nothing_but_rounding(build: Callable) -> None:
    plain, _ = build()
    made, messages = build(**{"train.compile": "kernels"})
    for step in range(2):
        plain.start_at(step)
        made.start_at(step)
        assert float(take_step(made)) == pytest.approx(float(take_step(plain)), rel=1e-4)
    assert messages == [] and speed.is_compiled(made)


def test_products_in_8_bits_and_the_update_in_one_pass(build: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor, without the compiler's part; tests/nets has both against what they replace."""
    calls: list[int] = []

    def update(*given: Any) -> None:
        calls.append(len(given[0]))
        compiled_adamw.adamw_step(*given)

    monkeypatch.setattr(compiled_adamw, "compiled", lambda: update)
    few = {"train.base_products": "8bit", "train.base_storage": "int8", "model.control_lora_rank": 2}
    made, messages = build(**few, **{"optim.one_pass_update": True, "train.precision": "bf16"})
    kinds = {type(layer) for layer in made.denoiser.modules() if isinstance(layer, torch.nn.Linear)}
    before = [parameter.detach().clone() for parameter in made.trainable.master.parameters()]
    assert isinstance(take_step(made), torch.Tensor)
    assert EightBitLinear in kinds and messages == [] and len(calls) == 2, "weights with decay, and without"
    after, of_net = list(made.trainable.master.parameters()), made.trainable.weights.master_of
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(torch.equal(copy, master.bfloat16()) for copy, master in of_net.items())
    made.replace_optimizer(made.new_optimizer(made.trainable.master))  # as a fallback does
    assert isinstance(take_step(made), torch.Tensor) and len(calls) == 2, "it belongs to the other one"


def test_where_products_and_update_stay_as_usual_the_log_says_why(build: Callable) -> None:
    made, messages = build(**{"train.base_products": "fp16_sums", "optim.one_pass_update": True})
    assert messages == [
        "The products of the base are computed as usual: others are not possible, they are for runs in fp16.",
        "Weights are not updated in one pass: it is for runs in fp16 or bf16.",
    ]
    assert not any(isinstance(layer, Fp16AccumulationLinear) for layer in made.denoiser.modules())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"optim": {"optimizer": "adafactor"}}, "it is for the optimizer adamw"),
        ({"optim": {"half_gradients": False}}, "gradients are not in half precision until the update"),
        ({"optim": {"offload": True}}, "the master weights are in RAM"),
        ({"optim": {"in_backward": True}}, "weights are updated in the backward pass"),
        ({"train": {"accumulation": 2}}, "gradients are added up"),
        ({"optim": {"master_weights": "split"}}, "the master weights are not kept whole"),
    ],
)
def test_why_an_update_is_not_made_in_one_pass(settings: dict[str, Any], why: str) -> None:
    config = parse({**settings, "optim": {**settings.get("optim", {}), "one_pass_update": True}})
    said: list[str] = []
    weights = CompactMasterWeights(torch.nn.Linear(2, 2), torch.bfloat16, config.optim.master_weights)
    if config.optim.half_gradients:
        weights.keep_half_gradients()
    state: Any = SimpleNamespace(
        config=config,
        dtype=torch.bfloat16,
        trainable=SimpleNamespace(weights=weights),
        emit=lambda message: said.append(message.text),
    )
    speed.compile_update(state)
    assert said == [f"Weights are not updated in one pass: {why}."]
