"""One interface to every card: what is asked of torch for each maker's, and what is offered there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from engine.config import parse
from engine.errors import UserError
from engine.families.flow import FlowMatching
from engine.families.noise import DiffusionNoise
from engine.machine import capabilities as table
from engine.machine import device as seam
from engine.machine.capabilities import CAPABILITIES, Capabilities, capabilities, maker_of
from engine.machine.device import PROCESSOR, free_and_total, is_card, random_state_kept, torch_device
from engine.machine.memory import cap_allocator, free_memory, usable_bytes
from engine.machine.optional import why_no_four_bits
from engine.machine.precision import usable_precision
from engine.nets.low_precision_matmul import matmul_mode
from engine.training.oom import machine_of
from engine.training.optim import build_optimizer

GIB = 2**30
TYPES = {"nvidia": "cuda", "amd": "cuda", "intel": "xpu", "apple": "mps", "processor": "cpu", "other": "privateuseone"}
Pretend = Callable[[str], tuple[torch.device, list[str]]]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Pretend a card of a maker; returns its device, and a list to which torch's functions add their names."""

    def card(maker: str) -> tuple[torch.device, list[str]]:
        kind, asked = TYPES[maker], list[str]()
        build = "2.13.0+rocm7.2" if maker == "amd" else "2.13.0"
        monkeypatch.setattr(table.metadata, "version", lambda name: build if name == "torch" else "0.50.0")

        def answers(name: str, value: Any) -> Callable[..., Any]:
            return lambda *_, **__: (asked.append(name), value)[1]

        there = None if kind == "cpu" else torch.device(kind)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: there)
        monkeypatch.setattr(torch.accelerator, "get_memory_info", answers("memory", (3 * GIB, 8 * GIB)))
        monkeypatch.setattr(torch.accelerator, "memory_reserved", answers("reserved", GIB))
        monkeypatch.setattr(torch.accelerator, "max_memory_reserved", answers("peak", 2 * GIB))
        monkeypatch.setattr(torch.accelerator, "reset_peak_memory_stats", answers("reset", None))
        monkeypatch.setattr(torch.accelerator, "empty_cache", answers("empty", None))
        stream = SimpleNamespace(synchronize=answers("wait", None))
        monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: stream)
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.25)
        monkeypatch.setattr(torch.mps, "recommended_max_memory", answers("mps memory", 8 * GIB))
        monkeypatch.setattr(torch.mps, "driver_allocated_memory", answers("mps held", GIB))
        monkeypatch.setattr(torch.mps, "empty_cache", answers("mps empty", None))
        monkeypatch.setattr(torch.mps, "synchronize", answers("mps wait", None))
        return torch_device(), asked

    return card


@pytest.mark.parametrize("maker", ["nvidia", "amd", "intel", "apple", "other", "processor"])
def test_memory_cache_and_waiting_are_one_interface(maker: str, pretend: Pretend) -> None:
    card, asked = pretend(maker)
    assert card.type == TYPES[maker] and maker_of(card.type) == maker and is_card(card) is (maker != "processor")
    free_memory()
    seam.wait_for(card)
    if maker == "processor":
        assert asked == [] and usable_bytes(card) is None
        return
    apple = maker == "apple"
    assert asked == (["mps empty", "mps wait"] if apple else ["empty", "wait"])
    assert free_and_total(card) == ((7 if apple else 3) * GIB, 8 * GIB)
    held = 8 if apple else 4
    assert usable_bytes(card) == (2 * GIB if card.type == "cuda" else held * GIB), "what was limited, or all"
    seam.reset_peak(card)
    assert seam.peak_bytes(card) == (1 if apple else 2) * GIB
    cap_allocator(card)  # on Windows only: nothing is called


@pytest.mark.parametrize(
    "message",
    [
        "The device (Intel(R) Graphics [0xb080]) doesn't support querying the available free memory.",
        "The device does not have the ext_intel_free_memory aspect",
    ],
)
def test_a_graphics_part_that_does_not_say_what_is_free_has_what_is_not_held(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def refuse(device: torch.device | None) -> None:
        raise RuntimeError(message)

    card, _ = pretend("intel")
    monkeypatch.setattr(torch.accelerator, "get_memory_info", refuse)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: SimpleNamespace(total_memory=16 * GIB))
    assert free_and_total(card) == free_and_total() == (15 * GIB, 16 * GIB)
    assert usable_bytes(card) == 16 * GIB
    message = "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"
    with pytest.raises(RuntimeError, match="LOST"):
        free_and_total(card)


def test_only_what_a_makers_cards_run_is_offered(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace())
    net = torch.nn.Linear(2, 2)
    eight_bit = parse({"train": {"base_products": "8bit", "base_storage": "int8"}}).train
    sums = parse({"train": {"base_products": "fp16_sums"}}).train
    paged = parse({"optim": {"optimizer": "paged_adamw8bit"}}).optim
    for maker in ("amd", "intel", "apple"):
        card, _ = pretend(maker)
        assert "NVIDIA" in matmul_mode(eight_bit, torch.float16, card)[1]
        assert "NVIDIA" in matmul_mode(sums, torch.float16, card)[1]
        assert bool(why_no_four_bits(card.type)) is (maker == "apple")
        machine = machine_of(card, 1, False)
        assert (machine.on_card, machine.paged) == (True, False)
        assert (machine.eight_bit, machine.fp8) == ((False, False) if maker == "apple" else (True, True))
        assert not capabilities(card.type).xformers and capabilities(card.type).graphs is (maker == "amd")
    monkeypatch.setattr("engine.training.optim.capabilities", lambda kind: Capabilities())
    with pytest.raises(UserError, match="8-bit optimizer cannot be used"):
        build_optimizer(net, paged)


def test_an_unknown_card_gets_the_least_and_nvidia_all() -> None:
    assert CAPABILITIES["other"] == Capabilities() and all(CAPABILITIES["nvidia"].__dict__.values())
    assert {field.type for field in fields(Capabilities)} == {"bool"} and set(TYPES) == set(CAPABILITIES) == set(
        table.TITLES
    )


def test_precision_is_what_the_card_computes_in(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("nvidia", "intel", "apple"):
        card, _ = pretend(kind)
        for there in (True, False):
            monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda there=there, **_: there)
            monkeypatch.setattr(torch.xpu, "is_bf16_supported", lambda there=there: there)
            number = torch.full((1,), float(there))
            monkeypatch.setattr(torch, "ones", lambda *_, number=number, **__: number)
            assert usable_precision("bf16", card)[0] == ("bf16" if there else "fp16")
        assert usable_precision("fp16", card) == ("fp16", "")


def test_random_numbers_are_restored_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Any] = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "before")
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    for device in (PROCESSOR, torch.device("mps")):
        before = torch.get_rng_state()
        with random_state_kept(device):
            torch.rand(3)
        assert torch.equal(before, torch.get_rng_state())
    assert states == ["before"]


def test_double_precision_is_the_processors_where_a_card_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw of timesteps needs it, so that without this no run of a flow family would take a step."""
    moved: list[str] = []

    def to_processor(numbers: torch.Tensor) -> torch.Tensor:
        moved.append("cpu")
        return numbers.clone()

    monkeypatch.setattr(torch.Tensor, "cpu", to_processor)
    uniform = torch.arange(0, 1000, 7)
    flow, diffusion = FlowMatching(FlowMatchEulerDiscreteScheduler()), DiffusionNoise(DDPMScheduler())
    draws = [(flow, "uniform"), (flow, "logit_normal"), (diffusion, "cubic")]
    usual = [process.shape_timesteps(uniform, sampling, (8, 8)) for process, sampling in draws]
    assert moved == []
    for maker, count in (("nvidia", 0), ("amd", 0), ("intel", 1), ("apple", 1), ("other", 1)):
        monkeypatch.setattr(table, "capabilities", lambda kind, maker=maker: CAPABILITIES[maker])
        for (process, sampling), before in zip(draws, usual, strict=True):
            assert torch.equal(process.shape_timesteps(uniform, sampling, (8, 8)), before)
        assert len(moved) == len(draws) * count
        moved.clear()


def test_the_list_of_cards_of_each_maker(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    amd = SimpleNamespace(uuid="u", name="a card", total_memory=GIB, is_integrated=0, gcnArchName="gfx1100")
    part = SimpleNamespace(**{**vars(amd), "gcnArchName": "gfx1036:xnack-", "is_integrated": 1})
    arc = SimpleNamespace(uuid="u", name="a card", total_memory=GIB, is_integrated_gpu=False)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx1030", "gfx1100"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: (part, amd)[number])
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda number: arc)
    pretend("intel")
    assert seam.cards() == [("u", "a card", float(GIB), "xpu", False)] * 2
    pretend("amd")
    monkeypatch.setattr(torch.version, "hip", "7.2.0")
    assert seam.cards() == [None, ("u", "a card", float(GIB), "cuda", False)], "no kernels for gfx1036"
    part.gcnArchName = "gfx1100"
    assert seam.cards()[0] == ("u", "a card", float(GIB), "cuda", True)
    monkeypatch.setattr(seam, "apple_name", lambda: "Apple M2")
    pretend("apple")
    assert seam.cards() == [("", "Apple M2", 8.0 * GIB, "mps", True)]
    pretend("processor")
    assert seam.cards() == []
