"""What can go wrong on a computer ends in one sentence with its remedy, and the next start goes on."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from engine.install import cli, preflight, steps
from engine.install.console import Console, InstallError, Outcome
from engine.install.hardware import Gpu, GpuReport
from engine.install.job import run_steps
from engine.install.layout import Layout
from engine.install.pip import Pip
from engine.install.steps import APP_STEPS, is_ready
from engine.install.torch_choice import choose
from tests.install.download_server import serve
from tests.install.pretended import ROOT, Machine, job_for


def test_a_card_and_a_driver_that_are_too_old_are_told_with_their_remedy() -> None:
    old_card = Gpu("GTX 780", 3072, (470, 256), (3, 5))
    old_driver = Gpu("RTX 3060", 12288, (471, 11), (8, 6))
    choice = choose(GpuReport((old_card, old_driver)), system="win32")
    assert choice.build == "cpu" and len(choice.warnings) == 3
    assert "no longer supports a card this old" in choice.warnings[0] and "GTX 900 series" in choice.warnings[0]
    assert "528.33 or newer is needed" in choice.warnings[1] and "nvidia.com/drivers" in choice.warnings[1]
    assert "on the processor" in choice.warnings[2]


class BrokenVenv(Machine):
    """A computer on which no environment can be made; the child prints ``output``."""

    output = ""

    def _pretend(self, words: list[str], text: str, half: bool) -> Outcome:
        return Outcome(1, self.output) if "venv" in words else super()._pretend(words, text, half)


@pytest.mark.parametrize(
    ("output", "free", "cause", "fix"),
    [
        ("Error: [Errno 28] No space left on device: '/x'", 20.0, "The disk is full", "Free some space"),
        ("Error: Command '[...]' returned non-zero exit status 1.", 0.0, "The disk is full", "Free some space"),
        ("Error: [WinError 5] Access is denied: 'python.exe'", 20.0, "in use or protected", "virus scanner"),
        ("ensurepip is not available", 20.0, "could not be created with", "--private-python"),
    ],
)
def test_an_environment_that_cannot_be_made_is_told_with_its_reason(
    root: Path, monkeypatch: pytest.MonkeyPatch, output: str, free: float, cause: str, fix: str
) -> None:
    monkeypatch.setattr(steps, "free_disk_gb", lambda folder: free)
    machine = BrokenVenv(Layout(root, windows=False))
    machine.output = output
    with pytest.raises(InstallError) as caught:
        run_steps(job_for(machine), APP_STEPS)
    assert cause in caught.value.cause and fix in caught.value.fix


def test_a_disk_that_fills_up_under_the_installer_is_no_traceback(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_room(*_: object, **__: object) -> None:
        raise full

    monkeypatch.setattr(cli, "detect_gpus", lambda timeout=0.0: GpuReport())
    monkeypatch.setattr(cli, "run_steps", no_room)
    assert cli.main(["--install-only"], root) == 1
    shown = capsys.readouterr().out
    assert "Cause: The disk is full." in shown and "Fix:   Free some space" in shown
    with monkeypatch.context() as unwritable:
        unwritable.setattr(Path, "open", no_room)
        console = Console(root / ".install" / "install.log", io.StringIO())
        console.say("one")
        console.fail(InstallError("The disk is full.", "Free some space."))
    assert console.out.getvalue().count("cannot be written") == 1  # type: ignore[attr-defined]
    assert "Cause: The disk is full." in console.out.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_network_that_goes_away_in_the_middle_of_a_package_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real pip: how it says so has changed with its versions."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("part/data", os.urandom(100_000))
    for name, value in (("PIP_RETRIES", "0"), ("PIP_TIMEOUT", "5"), ("PIP_NO_INDEX", "1"), ("NO_PROXY", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Layout, "python", sys.executable)
    pip = Pip(Layout(root), Console(None, io.StringIO()))
    with serve() as server:
        server.content, server.breaks_after = wheel.getvalue(), 30_000
        with pytest.raises(InstallError) as caught:
            pip.install("PyTorch", ["--no-deps", "--target", str(root), f"{server.address}/part-1-py3-none-any.whl"])
    assert "The download was interrupted" in caught.value.cause and "internet connection" in caught.value.fix


@pytest.mark.parametrize(
    "output",
    [
        "\n Microsoft Visual C++ Redistributable is not installed, this may lead to the DLL load failure.\n...\n",
        'OSError: [WinError 1114] A DLL initialization routine failed. Error loading "c10.dll" or a dependency.\n',
    ],
)
def test_a_windows_without_the_runtime_that_pytorch_needs_is_told_where_it_is(machine: Machine, output: str) -> None:
    machine.self_check = Outcome(1, output)
    with pytest.raises(InstallError, match="Visual C\\+\\+ runtime is missing") as caught:
        run_steps(job_for(machine), APP_STEPS)
    assert "vc_redist.x64.exe" in caught.value.fix
    machine.self_check = Outcome(0, "fine\n")
    run_steps(job_for(machine), APP_STEPS)
    assert is_ready(machine.layout, None)


@pytest.mark.parametrize(
    ("outcome", "cause", "fix"),
    [
        (Outcome(-6, "rocBLAS error: Cannot read /x/TensileLibrary.dat: Illegal seek\n"), "no kernels", "--cpu"),
        (Outcome(1, "AcceleratorError: HIP error: invalid device function\n"), "no kernels", "--cpu"),
        (Outcome(-4, ""), "processor lacks instructions", "newer processor"),
        (Outcome(-11, ""), "A library crashed", "--repair"),
        (Outcome(1, ""), "it ended without output", "--repair"),
    ],
)
def test_a_self_check_that_dies_is_told_by_how_it_died(
    machine: Machine, outcome: Outcome, cause: str, fix: str
) -> None:
    machine.self_check = outcome
    with pytest.raises(InstallError) as caught:
        run_steps(job_for(machine), APP_STEPS)
    assert cause in caught.value.cause and fix in caught.value.fix


def test_half_an_environment_is_not_taken_for_a_whole_one(machine: Machine) -> None:
    run_steps(job_for(machine), APP_STEPS)
    site = machine.layout.site_packages
    for gone in ("pip-24.0.dist-info", "torch-2.13.0+cpu.dist-info"):
        if (site / gone).exists():
            shutil.rmtree(site / gone)
            run_steps(job_for(machine), APP_STEPS)
            assert is_ready(machine.layout, choose(GpuReport()), "linux")
    shutil.rmtree(machine.layout.venv)
    machine.layout.venv.write_text("a file in its place", encoding="utf-8")
    run_steps(job_for(machine), APP_STEPS)
    assert is_ready(machine.layout, None)


@pytest.mark.parametrize("content", ["import a_package_that_is_gone", "def half_written("])
def test_a_damaged_package_is_told_when_the_app_starts(tmp_path: Path, content: str) -> None:
    for name, text in (("ui/launch.py", content), ("engine/machine/environment.py", "use_utf8 = print")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "app.py", tmp_path)
    result = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 1 and "a package of the app is missing or damaged" in result.stderr
    assert "--repair" in result.stderr


def test_a_folder_that_a_cloud_program_copies_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OneDrive", "OneDriveConsumer", "OneDriveCommercial"):
        monkeypatch.delenv(name, raising=False)
    inside = tmp_path / "OneDrive - Company" / "app"
    inside.mkdir(parents=True)
    assert "inside OneDrive" in " ".join(preflight.check(inside, build="cpu", fresh=True))
    assert "inside" not in " ".join(preflight.check(tmp_path, build="cpu", fresh=True))
    monkeypatch.setenv("OneDriveCommercial", str(tmp_path))
    assert "inside OneDrive" in " ".join(preflight.check(tmp_path, build="cpu", fresh=True))
