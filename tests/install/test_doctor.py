"""The doctor's report: what is here, what is wrong, the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.install import doctor
from engine.install.hardware import Gpu, GpuReport
from engine.install.job import run_steps
from engine.install.layout import Layout
from engine.install.packages import PACKAGES
from engine.install.steps import APP_STEPS
from tests.install.pretended import Machine, job_for

CARD = GpuReport((Gpu("RTX 3060", 12288, (580, 95), (8, 6)),))
ALL_THERE = {**dict.fromkeys(PACKAGES, "1.0"), "bitsandbytes": "!ModuleNotFoundError", "card": ""}


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> dict[str, GpuReport]:
    found = {"report": GpuReport()}
    monkeypatch.setattr(doctor, "detect_gpus", lambda: found["report"])
    return found


@pytest.fixture
def installed(root: Path) -> Layout:
    layout = Layout(root)
    run_steps(job_for(Machine(layout)), APP_STEPS)
    return layout


def problems(layout: Layout, look: dict[str, str] = ALL_THERE) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(layout, lambda _: look) if finding.problem}


def test_nothing_installed_is_reported_with_the_fix(any_root: Path, cards: dict[str, GpuReport]) -> None:
    before = sorted(any_root.rglob("*"))
    text, well = doctor.report(any_root)
    assert not well
    assert "Nothing is installed yet." in text
    assert "fix:   Start install.sh or install.bat." in text
    assert sorted(any_root.rglob("*")) == before


def test_a_good_installation_has_no_problem(installed: Layout, cards: dict[str, GpuReport]) -> None:
    assert problems(installed) == {}


def test_a_broken_package_is_named(installed: Layout, cards: dict[str, GpuReport]) -> None:
    found = problems(installed, {**ALL_THERE, "cv2": "!ImportError: libGL.so.1"})
    assert found["cv2"].problem == "ImportError: libGL.so.1"
    assert "--repair" in found["cv2"].fix


def test_an_interrupted_installation_is_reported(installed: Layout, cards: dict[str, GpuReport]) -> None:
    (installed.root / "requirements.txt").write_text("torch==2.13.0\nnew\n", encoding="utf-8")
    assert "installation" in problems(installed)
    missing = dict.fromkeys((*PACKAGES, "card"), "!ModuleNotFoundError: No module named 'x'")
    assert list(problems(installed, missing)) == ["installation"], (
        "one cause, one fix: what is still to come is no damage"
    )


@pytest.mark.answers("It trains on the processor although there is a graphics card")
def test_a_cpu_build_over_a_card_is_reported(installed: Layout, cards: dict[str, GpuReport]) -> None:
    cards["report"] = CARD
    found = problems(installed)
    assert "2.13.0+cu130 would" in found["torch"].problem
    assert "cannot use the card" in found["torch on the card"].problem


def test_an_old_driver_is_reported_with_the_fix(installed: Layout, cards: dict[str, GpuReport]) -> None:
    cards["report"] = GpuReport((Gpu("RTX 5090", 32768, (570, 86), (12, 0)),))
    assert "driver 570.86 is too old" in problems(installed)["use of the card"].problem


def test_a_driver_that_does_not_answer_is_reported(installed: Layout, cards: dict[str, GpuReport]) -> None:
    cards["report"] = GpuReport(problem="nvidia-smi did not respond within 15 seconds")
    assert "did not respond" in problems(installed)["NVIDIA card"].problem


@pytest.mark.answers("accelerate, DeepSpeed, xformers, bitsandbytes, triton, chardet: what do I need?")
def test_optional_packages_are_no_problem(installed: Layout, cards: dict[str, GpuReport]) -> None:
    values = {finding.name: finding.value for finding in doctor.examine(installed, lambda _: ALL_THERE)}
    assert values["bitsandbytes"] == "not in use (optional)"
