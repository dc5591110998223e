"""Which PyTorch for which card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.install.hardware import Gpu, GpuReport
from engine.install.torch_choice import TORCH, choose, fits

NEW, OLD, ANCIENT = (580, 95), (550, 54), (470, 82)
PASCAL, TURING, AMPERE, ADA, HOPPER, BLACKWELL = (6, 1), (7, 5), (8, 6), (8, 9), (9, 0), (12, 0)


def card(capability: tuple[int, int] | None, driver: tuple[int, ...], memory: int = 8192, name: str = "card") -> Gpu:
    return Gpu(name, memory, driver, capability)


@pytest.mark.answers("It trains on the processor although there is a graphics card")
@pytest.mark.parametrize("system", ["linux", "win32"])
@pytest.mark.parametrize(
    ("capability", "driver", "build"),
    [
        (TURING, NEW, "cu130"),
        (AMPERE, NEW, "cu130"),
        (BLACKWELL, NEW, "cu130"),
        (TURING, OLD, "cu126"),
        (ADA, OLD, "cu126"),
        (HOPPER, OLD, "cu126"),
        (PASCAL, NEW, "cu126"),
        ((5, 0), OLD, "cu126"),
        (BLACKWELL, (570, 86), "cpu"),  # the only build with Blackwell needs driver 580
        (AMPERE, ANCIENT, "cpu"),
        ((3, 5), ANCIENT, "cpu"),
        (None, ANCIENT, "cpu"),
    ],
)
def test_build_by_card_and_driver(
    capability: tuple[int, int] | None, driver: tuple[int, ...], build: str, system: str
) -> None:
    assert choose(GpuReport((card(capability, driver),)), system=system).build == build


def test_an_old_driver_is_reported_with_the_version_that_it_takes() -> None:
    words = " ".join(choose(GpuReport((card(BLACKWELL, (570, 86)),)), system="linux").warnings)
    assert "driver 570.86 is too old" in words
    assert "580.65" in words
    assert "nvidia.com/drivers" in words


def test_a_card_out_of_support_is_not_sent_after_a_driver() -> None:
    words = " ".join(choose(GpuReport((card((3, 5), NEW),)), system="linux").warnings)
    assert "no longer supports" in words
    assert "drivers" not in words


@pytest.mark.answers("It trains on the processor although there is a graphics card")
def test_no_card_is_a_warning() -> None:
    choice = choose(GpuReport())
    assert choice.build == "cpu"
    assert "No card that can be used was found" in choice.warnings[-1]


def test_a_driver_that_does_not_answer_is_reported() -> None:
    assert "did not respond" in choose(GpuReport(problem="nvidia-smi did not respond")).warnings[0]


def test_cpu_is_taken_when_asked_for() -> None:
    choice = choose(GpuReport((card(AMPERE, NEW),)), force_cpu=True)
    assert (choice.build, choice.forced, choice.warnings) == ("cpu", True, ())


def test_two_cards_get_one_build_that_runs_on_both() -> None:
    both = GpuReport((card(ADA, NEW, 24576), card(PASCAL, NEW, 6144)))
    choice = choose(both, system="linux")
    assert (choice.build, choice.warnings) == ("cu126", ())


def test_of_two_cards_without_a_common_build_the_larger_decides() -> None:
    both = GpuReport((card(PASCAL, NEW, 8192, "Pascal"), card(BLACKWELL, NEW, 16384, "Blackwell")))
    choice = choose(both, system="linux")
    assert choice.build == "cu130"
    assert choice.gpu is not None and choice.gpu.name == "Blackwell"
    assert "Pascal will not be used: no single build" in choice.warnings[0]


def test_exact_version_and_index() -> None:
    choice = choose(GpuReport((card(AMPERE, NEW),)), system="linux")
    assert (choice.wanted, choice.index) == (f"{TORCH}+cu130", "https://download.pytorch.org/whl/cu130")


def test_an_older_build_that_runs_may_stay() -> None:
    assert fits("cu126", choose(GpuReport((card(AMPERE, NEW),)), system="linux"), "linux")
    assert not fits("cu126", choose(GpuReport((card(BLACKWELL, NEW),)), system="linux"), "linux")


def test_a_cpu_build_gives_way_when_a_card_arrives() -> None:
    assert not fits("cpu", choose(GpuReport((card(AMPERE, NEW),)), system="linux"), "linux")
    assert not fits("", choose(GpuReport()))


def test_a_cuda_build_stays_while_the_card_is_away_but_not_against_the_users_word() -> None:
    assert fits("cu130", choose(GpuReport()))
    assert not fits("cu130", choose(GpuReport(), force_cpu=True))


def test_requirements_pin_the_same_torch() -> None:
    text = (Path(__file__).parents[2] / "requirements.txt").read_text(encoding="utf-8")
    assert re.findall(r"^torch==(\S+)$", text, re.MULTILINE) == [TORCH]
    assert "torchvision" not in text
