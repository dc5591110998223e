"""The card that is described is the card that is used: nvidia-smi's list, CUDA's variables, and what is hidden."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from engine.cli import main as cli
from engine.errors import UserError
from engine.machine import cards, device, environment, hardware
from engine.machine.capabilities import is_cpu_build
from engine.machine.cards import Card, usable, use_one, visible
from engine.machine.device import torch_device
from engine.machine.hardware import detect, why_unused
from engine.workspace.paths import Workspace
from engine.workspace.remembered import CARD, remember
from ui import launch
from ui.page.context import AppContext

SMALL_AND_LARGE = """0, GPU-aaaa1111, NVIDIA GeForce RTX 4070 Ti, 12282
1, GPU-bbbb2222, NVIDIA GeForce RTX 3090, 24576
"""
TWO_ALIKE = "0, GPU-cc, NVIDIA RTX A5000, 24564\n1, GPU-dd, NVIDIA RTX A5000, 24564\n"
TWO_AMD = [["u0", "AMD Radeon 890M", 2**31, "cuda", True], ["u1", "AMD RX 7900 XTX", 24 * 2**30, "cuda", False]]
VARIABLES = (cards.ORDER, cards.VISIBLE, cards.HIP_VISIBLE, cards.AFFINITY, environment.CUBLAS, environment.ALLOCATOR)
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Pretend a machine: what nvidia-smi and torch (in another process) print, and the build of torch."""
    caches = (cards.reported, cards.seen_by_torch, detect)
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in VARIABLES})
    monkeypatch.setattr(cards, "hidden_from", [])

    def pretend(smi: str = "", build: str = "2.13.0+cu130", seen: object = (), system: str = "Linux") -> None:
        monkeypatch.setattr(cards, "ask_nvidia_smi", lambda: smi)
        monkeypatch.setattr(cards, "ask_torch", lambda hidden: json.dumps(seen))
        for module in (cards, hardware, environment):
            monkeypatch.setattr(module.metadata, "version", lambda name: build)
            monkeypatch.setattr(module.platform, "system", lambda: system)
        for function in caches:
            function.cache_clear()

    pretend()
    yield pretend
    for function in caches:
        function.cache_clear()


def described() -> tuple[str, float | None, int]:
    found = detect()
    return found.name.removeprefix("NVIDIA GeForce "), found.vram_gib and round(found.vram_gib), found.cards


@pytest.mark.answers("It trains on the wrong one of several cards")
def test_of_several_cards_the_largest_is_used_and_described(machine: Machine) -> None:
    machine(SMALL_AND_LARGE)
    card = use_one()
    assert card == Card(1, "NVIDIA GeForce RTX 3090", 24.0, "GPU-bbbb2222")
    assert os.environ[cards.VISIBLE] == "1" and os.environ[cards.ORDER] == "PCI_BUS_ID"
    assert described() == ("RTX 3090", 24, 2) and "one of 2 cards" in detect().sentence
    assert [c.number for c in visible()] == [1] and [c.number for c in usable()] == [0, 1]


@pytest.mark.parametrize(("number", "mark", "used"), [(0, "", 0), (None, "GPU-aaaa1111", 0), (1, "GPU-aaaa1111", 1)])
def test_the_option_comes_before_what_is_remembered(machine: Machine, number: int | None, mark: str, used: int) -> None:
    machine(SMALL_AND_LARGE)
    card = use_one(number, mark)
    assert card is not None and card.number == used and os.environ[cards.VISIBLE] == str(used)
    assert detect().name == card.name


def test_a_remembered_card_that_is_gone_is_no_error(machine: Machine) -> None:
    machine(TWO_ALIKE)
    card = use_one(mark="GPU-of another computer")
    assert card is not None and card.number == 0


def test_a_card_that_is_not_there_is_named_with_those_that_are(machine: Machine) -> None:
    machine(SMALL_AND_LARGE)
    with pytest.raises(UserError, match="Graphics card 2") as raised:
        use_one(2)
    assert "0: NVIDIA GeForce RTX 4070 Ti, 12 GB; 1: NVIDIA GeForce RTX 3090, 24 GB" in raised.value.why
    machine()
    with pytest.raises(UserError, match="Graphics card 0 cannot be used") as raised:
        use_one(0)
    assert "none" in raised.value.why


def test_a_single_card_is_not_hidden_from_anything(machine: Machine) -> None:
    machine(SMALL_AND_LARGE.splitlines()[0])
    card = use_one()
    assert card is not None and cards.VISIBLE not in os.environ and described() == ("RTX 4070 Ti", 12, 1)


@pytest.mark.parametrize(
    ("allowed", "used", "count"),
    [("0", 0, 1), ("1,0", 1, 2), ("GPU-aaaa", 0, 1), ("0,7,1", 0, 1), (" 0 , GPU-bbbb2222 ", 1, 2)],
)
def test_what_the_user_has_hidden_stays_hidden(machine: Machine, allowed: str, used: int, count: int) -> None:
    machine(SMALL_AND_LARGE)
    os.environ[cards.VISIBLE] = allowed
    card = use_one()
    assert card is not None and card.number == used and detect().cards == count
    assert [c.number for c in visible()] == [used]


@pytest.mark.parametrize("allowed", ["", "-1"])
def test_all_cards_hidden_is_said(machine: Machine, allowed: str) -> None:
    machine(SMALL_AND_LARGE)
    os.environ[cards.VISIBLE] = allowed
    assert use_one() is None
    assert detect().device == "cpu" and f"CUDA_VISIBLE_DEVICES={allowed} hides it" in detect().banner


def test_without_a_choice_the_first_one_that_torch_sees_is_described(machine: Machine) -> None:
    """Another program, such as a benchmark, that calls the engine: torch's ``cuda`` is then card 0."""
    machine(SMALL_AND_LARGE)
    cards.count_like_nvidia_smi()
    assert described() == ("RTX 4070 Ti", 12, 2)


def test_a_processor_build_is_described_as_one(machine: Machine) -> None:
    machine(SMALL_AND_LARGE, build="2.13.0+cpu")
    assert use_one() is None and detect().device == "cpu" and "CPU-only build" in detect().banner
    machine(build="2.13.0+cpu")
    assert detect().banner == ""
    assert is_cpu_build("2.13.0", "Windows") and not is_cpu_build("2.13.0", "Linux")
    assert not is_cpu_build("2.13.0+rocm6.4", "Windows") and is_cpu_build("2.13.0", "Darwin")


@pytest.mark.parametrize("smi", ["", "NVIDIA-SMI has failed", "0, GPU-xx, NVIDIA GB10, [N/A]"])
def test_where_nvidia_smi_tells_nothing_torch_is_asked(machine: Machine, smi: str) -> None:
    machine(
        smi,
        build="2.13.0+rocm6.4",
        seen=TWO_AMD,
    )
    card = use_one()
    assert card is not None and (card.number, card.mark) == (1, "u1") and os.environ[cards.VISIBLE] == "1"
    assert described() == ("AMD RX 7900 XTX", 24, 2)


@pytest.mark.skipif(os.name == "nt", reason="a shell script as nvidia-smi")
def test_letters_that_are_no_utf_8_in_a_cards_name_are_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0, GPU-a, Card \\377, 8192\\n'\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert cards.ask_nvidia_smi() == "0, GPU-a, Card \ufffd, 8192\n"


def test_a_choice_made_for_rocm_or_a_part_of_a_card_stays(machine: Machine) -> None:
    machine(build="2.13.0+rocm6.4", seen=TWO_AMD)
    os.environ[cards.HIP_VISIBLE] = "1,0"
    use_one()
    assert cards.VISIBLE not in os.environ
    machine(SMALL_AND_LARGE, seen=[["MIG-1", "NVIDIA A100 MIG 1g.10gb", 10 * 2**30, "cuda", False]])
    os.environ[cards.VISIBLE] = "MIG-1"
    assert use_one() is not None and os.environ[cards.VISIBLE] == "MIG-1"
    assert described() == ("NVIDIA A100 MIG 1g.10gb", 10, 1)


def test_of_two_intel_cards_the_largest_is_used(machine: Machine) -> None:
    part = [
        "a",
        "Intel(R) Arc(TM) Graphics",
        28 * 2**30,
        "xpu",
        True,
    ]  # of the processor: half of the computer's memory
    two = [part, ["b", "Intel(R) Arc(TM) A770 Graphics", 16 * 2**30, "xpu", False]]
    machine(SMALL_AND_LARGE, build="2.13.0+xpu", seen=two)  # an NVIDIA card in the same computer is not used
    card = use_one()
    assert card is not None and os.environ[cards.AFFINITY] == "1" and cards.VISIBLE not in os.environ
    assert detect().device == "xpu" and detect().maker == "intel" and detect().cards == 2
    assert described() == ("Intel(R) Arc(TM) A770 Graphics", 16, 2)
    os.environ[cards.AFFINITY] = "1.0"  # a part of a card: torch is asked for what is left
    assert len(visible()) == 2
    machine(SMALL_AND_LARGE, build="2.13.0+xpu")
    assert detect().device == "cpu" and "another maker's cards" in detect().banner


@pytest.mark.parametrize(
    ("seen", "used", "variable"),
    [
        ([None, TWO_AMD[1]], 1, "1"),  # the graphics part of a processor is often the first
        ([TWO_AMD[1], None], 0, None),
        ([["u0", "AMD Radeon 8060S", 96 * 2**30, "cuda", True]], 0, None),
        ([["u0", "AMD Radeon 8060S", 96 * 2**30, "cuda", True], TWO_AMD[1]], 1, "1"),
        ([None], None, "-1"),
        ([], None, None),
    ],
)
def test_a_card_comes_before_a_graphics_part_and_one_without_kernels_is_not_used(
    machine: Machine, seen: list[object], used: int | None, variable: str | None
) -> None:
    machine(build="2.13.0+rocm7.2", seen=seen)
    card = use_one()
    assert (card.number if card else None) == used and os.environ.get(cards.VISIBLE) == variable
    assert (detect().device == "cpu") is (used is None)
    assert ("finds no card that it can use" in detect().banner) is (used is None)


def test_a_mac_with_apples_processor_computes_on_its_graphics_part(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.machine.capabilities.platform.machine", lambda: "arm64")
    machine(build="2.13.0", seen=[["", "Apple M2", 10 * 2**30, "mps", True]], system="Darwin")
    assert use_one() is not None and described() == ("Apple M2", 10, 1) and detect().maker == "apple"


def test_the_program_that_asks_torch_for_its_cards(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(device.__file__, run_name="__main__")
    assert json.loads(capsys.readouterr().out) == [], "a build for the processor finds no card"


def test_a_card_that_torch_cannot_use_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(SMALL_AND_LARGE)
    use_one()
    assert "PyTorch cannot use the NVIDIA GeForce RTX 3090" in why_unused("cpu") and why_unused("cuda") == ""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("xpu"))
    assert torch_device() == torch.device("xpu")
    machine()
    assert why_unused("cpu") == ""


@pytest.mark.parametrize(
    ("build", "release", "given", "blocks"),
    [
        ("2.13.0+cu130", "6.8.0", {}, environment.EXPANDABLE),
        ("2.13.0+cu130", "6.6-microsoft-standard-WSL2", {}, None),
        ("2.13.0+cpu", "6.8.0", {}, None),
        ("2.13.0+rocm6.4", "6.8.0", {}, None),
        ("2.13.0+cu130", "6.8.0", {environment.ALLOCATOR: "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ("2.13.0+cu130", "6.8.0", {environment.FORMER_ALLOCATOR: "max_split_size_mb:64"}, None),
    ],
)
def test_what_torch_reads_at_its_start_is_set_unless_the_user_has_set_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, build: str, release: str, given: dict[str, str], blocks: str
) -> None:
    machine(build=build)
    monkeypatch.setattr(environment.sys, "platform", "linux")
    monkeypatch.setattr(environment.platform, "release", lambda: release)
    os.environ.update({cards.ORDER: "FASTEST_FIRST", **given})
    environment.prepare()
    assert os.environ.get(environment.ALLOCATOR) == blocks
    assert os.environ[cards.ORDER] == "PCI_BUS_ID" and os.environ[environment.CUBLAS] == ":4096:8"


def test_the_command_line_uses_the_card_of_the_option_else_the_remembered_one(
    machine: Machine, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(SMALL_AND_LARGE)
    start = ["--workspace", str(workspace.root)]
    remember(workspace, **{CARD: "GPU-aaaa1111"})
    assert cli.main([*start, "doctor"]) == 0
    assert "Device      NVIDIA GeForce RTX 4070 Ti, 12 GB (one of 2 cards)" in capsys.readouterr().out
    detect.cache_clear()
    assert cli.main([*start, "--card", "1", "doctor"]) == 0
    assert "Device      NVIDIA GeForce RTX 3090, 24 GB" in capsys.readouterr().out
    assert cli.main([*start, "--card", "5", "doctor"]) == cli.EXIT_PROBLEM
    assert "Graphics card 5 cannot be used" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*start, "--card", "1", "resume", "a-run", "--processes", "2"])
    assert "--card chooses a single card" in capsys.readouterr().err


def test_the_window_uses_the_card_of_the_option(
    machine: Machine, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(SMALL_AND_LARGE)
    opened: list[str] = []

    def open_window(*_: object) -> int:
        context = AppContext(workspace)
        opened.extend([context.hardware.name, context.suggested_preset])
        return 0

    monkeypatch.setattr(launch, "open_window", open_window)
    start = ["--workspace", str(workspace.root), "--no-browser"]
    assert launch.main([*start, "--card", "0"]) == 0
    assert opened == ["NVIDIA GeForce RTX 4070 Ti", "12gb"] and os.environ[cards.VISIBLE] == "0"
    assert "Using graphics card 0: NVIDIA GeForce RTX 4070 Ti, 12 GB." in capsys.readouterr().out
    assert launch.main([*start, "--card", "9"]) == launch.EXIT_CANNOT_START
    detect.cache_clear()
    assert launch.main(start) == 0 and opened[2:] == ["NVIDIA GeForce RTX 3090", "24gb"]
