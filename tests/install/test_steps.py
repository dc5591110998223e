"""The steps over a pretended machine: idempotent, resumable after a kill anywhere, torch held still."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.install.console import InstallError, Outcome
from engine.install.hardware import Gpu, GpuReport
from engine.install.job import print_plan, run_steps
from engine.install.layout import Layout, installed_torch, read_record
from engine.install.steps import APP_STEPS, is_ready, remove_venv
from engine.install.torch_choice import INDEX, choose
from tests.install.pretended import Killed, Machine, job_for

CARD = GpuReport((Gpu("RTX 3060", 12288, (580, 95), (8, 6)),))
OLD_CARD = GpuReport((Gpu("GTX 1060", 6144, (580, 95), (6, 1)),))
COMMANDS = 6  # venv, newest pip, pip index, torch, packages, self-check


def install(machine: Machine) -> None:
    run_steps(job_for(machine), APP_STEPS)


def test_a_fresh_installation_ends_ready(any_root: Path) -> None:
    machine = Machine(Layout(any_root, windows=False))
    install(machine)
    assert is_ready(machine.layout, choose(GpuReport()), "linux")
    assert len(machine.shown().splitlines()) == len(APP_STEPS) + 1  # one line a step, and the banner of "no card"


def test_a_second_run_changes_nothing(machine: Machine) -> None:
    install(machine)
    machine.commands.clear()
    install(machine)
    assert machine.ran("install") == []
    assert machine.ran("venv ") == []


@pytest.mark.parametrize("moment", range(COMMANDS))
def test_killed_at_any_moment_it_goes_on_from_there(any_root: Path, moment: int) -> None:
    machine = Machine(Layout(any_root, windows=False))
    machine.kill_at = moment
    with pytest.raises(Killed):
        install(machine)
    before = len(machine.ran("-m venv"))
    machine.kill_at = None
    install(machine)
    assert is_ready(machine.layout, choose(GpuReport()), "linux")
    # Only a kill while the environment itself was being made may make it anew.
    assert len(machine.ran("-m venv")) - before == (1 if moment == 0 else 0)


def test_the_moments_above_cover_the_whole_installation(machine: Machine) -> None:
    install(machine)
    assert len(machine.commands) == COMMANDS


def test_a_new_requirement_is_installed_and_torch_is_not(machine: Machine) -> None:
    install(machine)
    machine.commands.clear()
    file = machine.layout.root / "requirements.txt"
    file.write_text(file.read_text(encoding="utf-8") + "another\n", encoding="utf-8")
    assert not is_ready(machine.layout, None)
    install(machine)
    assert machine.ran("torch==") == []
    assert len(machine.ran("-r ")) == 1
    assert is_ready(machine.layout, None)


def test_a_deleted_environment_takes_its_record_along(machine: Machine) -> None:
    install(machine)
    shutil.rmtree(machine.layout.venv)
    assert not is_ready(machine.layout, None)
    install(machine)
    assert is_ready(machine.layout, None)


def test_the_packages_are_held_to_the_installed_torch(machine: Machine) -> None:
    install(machine)
    assert machine.layout.constraints.read_text(encoding="utf-8") == "torch==2.13.0+cpu\n"
    assert f"-c {machine.layout.constraints}" in machine.ran("-r ")[0]


def test_a_package_that_replaces_torch_is_a_failure(machine: Machine) -> None:
    machine.packages_bring_torch = "2.14.0"
    with pytest.raises(InstallError, match="replaced PyTorch 2.13.0.cpu by 2.14.0"):
        install(machine)
    assert not is_ready(machine.layout, None)


def test_a_failed_self_check_is_reported_and_tried_again(machine: Machine) -> None:
    machine.self_check = Outcome(1, "Traceback ...\nImportError: libGL.so.1 is missing\n")
    with pytest.raises(InstallError, match="libGL.so.1 is missing"):
        install(machine)
    assert not is_ready(machine.layout, None)
    machine.self_check = Outcome(0, "fine\n")
    install(machine)
    assert is_ready(machine.layout, None)


def test_a_cpu_build_that_pip_offers_by_itself_is_taken(machine: Machine) -> None:
    machine.offered = {"": ["2.13.0+cpu", "2.13.0"], f"{INDEX}cpu": ["2.13.0+cpu"]}
    install(machine)
    assert machine.ran("torch==")[0].endswith("torch==2.13.0+cpu")


def test_otherwise_the_cpu_build_comes_from_pytorchs_index(machine: Machine) -> None:
    machine.offered = {"": ["2.15.0", "2.13.0"], f"{INDEX}cpu": ["2.13.0+cpu"]}
    install(machine)
    assert machine.ran("torch==")[0].endswith(f"torch==2.13.0+cpu --index-url {INDEX}cpu")


def test_if_that_cannot_be_reached_the_build_of_the_default_index_is_kept(machine: Machine) -> None:
    machine.offered = {"": ["2.13.0"]}
    install(machine)
    assert machine.ran("torch==")[0].endswith("torch==2.13.0")
    assert "could not be reached" in machine.shown()
    assert is_ready(machine.layout, choose(GpuReport(), force_cpu=True), "linux")


def test_windows_without_a_card_uses_the_default_index_at_once(machine: Machine) -> None:
    machine.plain_torch = ("2.13.0+cpu", None)  # type: ignore[assignment]
    run_steps(job_for(machine, system="win32"), APP_STEPS)
    assert machine.ran("index versions") == []
    assert machine.ran("torch==")[0].endswith("torch==2.13.0")


@pytest.mark.parametrize(("cards", "build"), [(CARD, "cu130"), (OLD_CARD, "cu126")])
def test_a_card_gets_its_build_from_pytorchs_index(machine: Machine, cards: GpuReport, build: str) -> None:
    machine.offered = {"": ["2.13.0"], INDEX + build: [f"2.13.0+{build}"]}
    run_steps(job_for(machine, choose(cards, system="linux")), APP_STEPS)
    assert installed_torch(machine.layout)[1] == build
    assert machine.ran("selfcheck")[0].endswith(" card")


def test_a_card_whose_build_is_not_to_be_had_is_a_failure_with_a_way_out(machine: Machine) -> None:
    machine.offered = {"": ["2.13.0"]}
    with pytest.raises(InstallError) as caught:
        run_steps(job_for(machine, choose(OLD_CARD, system="linux")), APP_STEPS)
    assert "could not be reached" in caught.value.cause
    assert "--cpu" in caught.value.fix


@pytest.mark.answers("accelerate, DeepSpeed, xformers, bitsandbytes, triton, chardet: what do I need?")
def test_extras_that_do_not_work_are_left_out(machine: Machine) -> None:
    machine.offered = {"": ["2.13.0+cu130"]}
    machine.broken_imports = {"xformers"}
    run_steps(job_for(machine, choose(CARD, system="linux")), APP_STEPS)
    assert "Continuing without xformers" in machine.shown()
    assert machine.ran("uninstall --yes xformers")
    assert "Extras for the card ... bitsandbytes\n" in machine.shown()
    assert all("--only-binary :all:" in command for command in machine.ran("install .*(bitsandbytes|xformers)>="))


def test_extras_are_not_tried_without_a_card(machine: Machine) -> None:
    install(machine)
    assert machine.ran("bitsandbytes|xformers") == []


def test_cpu_is_remembered_from_the_start(machine: Machine) -> None:
    run_steps(job_for(machine, choose(CARD, force_cpu=True)), APP_STEPS)
    assert read_record(machine.layout)["cpu"] is True


def test_the_plan_does_nothing(machine: Machine) -> None:
    print_plan(job_for(machine), APP_STEPS)
    assert not machine.layout.venv.exists()
    assert machine.shown().count("would") == 5


def test_a_kill_while_the_old_environment_is_deleted_leaves_no_half_of_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(machine)

    def die(path: Path) -> None:
        raise Killed

    with monkeypatch.context() as deadly:
        deadly.setattr(shutil, "rmtree", die)
        with pytest.raises(Killed):
            remove_venv(machine.layout)
    assert not machine.layout.venv.exists()
    install(machine)
    assert is_ready(machine.layout, None)
    assert not list(machine.layout.log.parent.glob("old-*"))


def test_an_environment_of_an_unsupported_python_is_remade(machine: Machine) -> None:
    install(machine)
    (machine.layout.venv / "pyvenv.cfg").write_text("version = 3.9.1\n", encoding="utf-8")
    install(machine)
    assert len(machine.ran("-m venv")) == 2


def test_an_environment_whose_python_was_uninstalled_is_remade(machine: Machine, tmp_path: Path) -> None:
    install(machine)
    settings = machine.layout.venv / "pyvenv.cfg"
    settings.write_text(f"home = {tmp_path}\nversion = 3.12.4\n", encoding="utf-8")
    assert is_ready(machine.layout, None)
    settings.write_text(f"home = {tmp_path / 'gone'}\nversion = 3.12.4\n", encoding="utf-8")
    assert not is_ready(machine.layout, None)
    install(machine)
    assert len(machine.ran("-m venv")) == 2 and is_ready(machine.layout, None)
