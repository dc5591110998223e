"""From the options to the steps and the hand-over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.cli.main import parse_arguments
from engine.install import cli
from engine.install.console import InstallError
from engine.install.hardware import Gpu, GpuReport
from engine.install.job import run_steps
from engine.install.layout import Layout, note
from engine.install.other_cards import OtherCard
from engine.install.preflight import Computer
from engine.install.steps import APP_STEPS
from tests.install.pretended import ROOT, Machine, job_for

CARD = GpuReport((Gpu("RTX 3060", 12288, (580, 95), (8, 6)),))


class Handed(Exception):
    """What the installer handed over to."""


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> dict[str, GpuReport]:
    """The cards that would be found; the hand-over raises what it was given."""
    found = {"report": GpuReport()}

    def hand_over(layout: Layout, arguments: list[str], environment: dict[str, str]) -> int:
        raise Handed(arguments)

    monkeypatch.setattr(cli, "detect_gpus", lambda timeout=0.0: found["report"])
    monkeypatch.setattr(cli, "hand_over", hand_over)
    return found


def steps_that_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the steps' execution by a list of the builds that they were run for."""
    builds: list[str] = []
    monkeypatch.setattr(cli, "run_steps", lambda job, steps: builds.append(job.choice.build))
    return builds


@pytest.fixture
def installed(root: Path) -> Path:
    """A complete installation without a card."""
    run_steps(job_for(Machine(Layout(root))), APP_STEPS)
    return root


def test_a_second_start_runs_no_step_and_no_child(
    installed: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = steps_that_run(monkeypatch)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(Handed) as handed:
        cli.main([], installed)
    assert handed.value.args[0] == ["app.py"]
    assert builds == []


def test_the_apps_options_are_handed_on(
    installed: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cli.CALLED_FROM, str(installed))
    with pytest.raises(Handed) as handed:
        cli.main(
            ["--no-browser", "--listen", "--port", "8000", "--workspace", "my sets", "--password", "a b"], installed
        )
    words = ["app.py", "--no-browser", "--listen", "--port", "8000"]
    assert handed.value.args[0] == [*words, "--workspace", str(installed / "my sets"), "--password", "a b"]


def test_the_demo_is_handed_over_to_the_engine(installed: Path, cards: dict[str, GpuReport]) -> None:
    with pytest.raises(Handed) as handed:
        cli.main(
            ["--demo", "--base", "demo-transformer", "--workspace", "my sets", "--", "--set", "train.steps=10"],
            installed,
        )
    module, *words = handed.value.args[0][1:]
    assert module == "engine.cli"
    options = parse_arguments(words)  # the engine understands what it is told
    assert (options.command, options.workspace.name, options.set) == ("demo", "my sets", ["train.steps=10"])
    assert options.base == "demo-transformer"


def test_a_card_that_arrives_later_brings_its_pytorch(
    installed: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = steps_that_run(monkeypatch)
    cards["report"] = CARD
    with pytest.raises(Handed):
        cli.main([], installed)
    assert builds == ["cu130"]


def test_a_maker_stays_asked_for_until_repair_or_another_wish(
    installed: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    builds = steps_that_run(monkeypatch)
    cards["report"] = GpuReport(CARD.gpus, others=(OtherCard("AMD", "AMD gfx1100", "rocm7.2"),))
    for words in (["--maker", "amd"], [], ["--maker", "nvidia"], ["--maker", "amd"], ["--cpu"], ["--repair"]):
        with pytest.raises(Handed):
            cli.main(words, installed)
    assert builds == ["rocm7.2", "rocm7.2", "cu130", "rocm7.2", "cu130"], "the processor's build is there already"
    assert cli.main(["--maker", "intel"], installed) == 1
    assert "With --maker intel there is no card that PyTorch can use" in capsys.readouterr().out


def test_cpu_stays_asked_for_until_repair(
    installed: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    note(Layout(installed), cpu=True)
    builds = steps_that_run(monkeypatch)
    cards["report"] = CARD
    with pytest.raises(Handed):
        cli.main([], installed)
    assert builds == []
    with pytest.raises(Handed):
        cli.main(["--repair"], installed)
    assert builds == ["cu130"]
    assert not (installed / ".venv").exists()


def test_dry_run_prints_the_plan_and_leaves_the_folder_alone(
    any_root: Path, cards: dict[str, GpuReport], capsys: pytest.CaptureFixture[str]
) -> None:
    cards["report"] = CARD
    before = sorted(any_root.rglob("*"))
    assert cli.main(["--dry-run", "--repair"], any_root) == 0
    assert sorted(any_root.rglob("*")) == before
    output = capsys.readouterr().out
    assert "would install torch 2.13.0+cu130 from https://download.pytorch.org/whl/cu130" in output
    assert "[6/6] Self-check" in output


def test_a_failure_is_explained_and_its_status_returned(
    root: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(job: object, steps: object) -> None:
        raise cli.InstallError("the moon is full", "wait", code=3)

    monkeypatch.setattr(cli, "run_steps", fail)
    assert cli.main([], root) == 3
    output = capsys.readouterr().out
    assert "Cause: the moon is full\nFix:   wait\nLog:   " in output


def test_ctrl_c_is_no_traceback(
    root: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(job: object, steps: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_steps", interrupt)
    assert cli.main([], root) == 130
    assert "continue where it left off" in capsys.readouterr().out


def test_a_second_installer_in_the_folder_is_refused(
    root: Path, cards: dict[str, GpuReport], capsys: pytest.CaptureFixture[str]
) -> None:
    with cli.only_one(Layout(root)):
        assert cli.main([], root) == 1
    assert "Another installation is running" in capsys.readouterr().out


LOCKED = """
import pathlib, sys
from engine.install.console import Console
from engine.install.in_use import only_one
from engine.install.layout import Layout
root = pathlib.Path(sys.argv[1])
console = Console(None)
with only_one(Layout(root), console=console):
    console.run(["sh", "-c", "echo; exec sleep 30"], {}, root, lambda line: print(flush=True))
"""


@pytest.mark.skipif(os.name == "nt", reason="locks of Windows belong to one process")
def test_the_pip_of_a_killed_installer_keeps_the_next_one_out(root: Path) -> None:
    """It still writes into the environment."""
    command = [sys.executable, "-c", LOCKED, str(root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as installer:
        assert installer.stdout is not None
        installer.stdout.readline()  # its child runs
        try:
            installer.kill()
            installer.wait()
            with pytest.raises(InstallError, match="Another installation is running"), cli.only_one(Layout(root)):
                pass
        finally:
            os.killpg(installer.pid, signal.SIGKILL)  # the child
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(InstallError), cli.only_one(Layout(root)):
            break
        time.sleep(0.01)
    else:
        pytest.fail("the lock outlives the child")


def test_the_environment_of_an_open_app_is_not_replaced(
    root: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = steps_that_run(monkeypatch)
    layout = Layout(root)
    note = layout.log.parent / "open" / "1.json"
    note.parent.mkdir(parents=True)
    note.touch()
    layout.python.parent.mkdir(parents=True)
    owners = '[["the window", "http://127.0.0.1:7860", 12, true, "here"]]'
    layout.python.write_text(f"#!/bin/sh\necho '{owners}'\n", encoding="utf-8")
    layout.python.chmod(0o755)
    assert cli.main(["--repair", "--install-only"], root) == 1 and ran == []
    assert "The app is open (the window at http://127.0.0.1:7860, process 12)" in capsys.readouterr().out
    layout.python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")  # what --repair is for
    assert cli.main(["--repair", "--install-only"], root) == 0


def test_a_folder_that_cannot_be_written_is_named_before_its_log_or_lock(
    root: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, mode: str = "r", *_: object, **__: object) -> None:
        raise FileNotFoundError if mode == "r" else PermissionError(13, "Permission denied")

    for name in ("write_text", "open", "mkdir"):
        monkeypatch.setattr(Path, name, refuse)
    assert cli.main([], root) == 1
    *_, cause, fix = capsys.readouterr().out.strip().splitlines()
    assert cause.startswith(f"Cause: Cannot write to the folder {root}") and "folder of your own" in fix


def test_a_computer_without_builds_is_told_before_the_plan_and_the_steps(
    root: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = steps_that_run(monkeypatch)
    monkeypatch.setattr(cli.preflight, "Computer", lambda: Computer("darwin", "x86_64", ("", ""), "15.0"))
    for options in ([], ["--dry-run"], ["--repair"]):
        assert cli.main(options, root) == 1
        shown = capsys.readouterr().out
        assert "Cause: PyTorch has no builds for Macs with an Intel processor" in shown and "would" not in shown
    assert ran == []


def test_the_password_is_kept_out_of_the_log(
    root: Path, cards: dict[str, GpuReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_that_run(monkeypatch)
    with pytest.raises(Handed):
        cli.main(["--listen", "--password", "hush-hush"], root)
    log = Layout(root).log.read_text(encoding="utf-8")
    assert "listen" in log
    assert "hush-hush" not in log


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ('"my sets"', "{here}/my sets"),
        ("'my sets' ", "{here}/my sets"),
        ("\u202amy sets\u00a0", "{here}/my sets"),
        ("file://{here}/my%20sets", "{here}/my sets"),
        ("{here}/my\\ sets", "{here}/my sets"),
        ("~/new", "{home}/new"),
        ("$HOME/new", "{home}/new"),
        ('"%HOME%/new"', "{home}/new"),
        ("../there/", "{here}/../there"),
    ],
)
@pytest.mark.parametrize("option", ["workspace", "update"])
def test_a_pasted_path_is_understood_relative_to_where_the_user_was(
    option: str, typed: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    (here / "my sets").mkdir(parents=True)
    monkeypatch.setenv(cli.CALLED_FROM, str(here))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    before = Path.cwd()
    options = cli.parse([f"--{option}", typed.replace("{here}", str(here))])
    assert Path(getattr(options, option)) == Path(meant.format(here=here, home=home)) and Path.cwd() == before


def test_an_address_stays_one_and_quotation_marks_alone_are_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.parse(["--update", '" https://example.org/a%20b.zip "']).update == "https://example.org/a%20b.zip"
    assert cli.parse(["--update"]).update == "" and cli.parse([]).update is None
    with pytest.raises(SystemExit):
        cli.parse(["--workspace", '" "'])
    assert "--workspace: no path is given" in capsys.readouterr().err
    monkeypatch.setenv(cli.CALLED_FROM, str(tmp_path / "gone"))
    assert cli.parse(["--workspace", str(tmp_path)]).workspace == str(tmp_path)


@pytest.mark.parametrize(
    "arguments", [["--test", "--demo"], ["--base", "demo"], ["--long"], ["--what"], ["--port", "x"], ["--", "words"]]
)
def test_wrong_options_are_refused(arguments: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments, root)
    assert stopped.value.code == 2


def test_the_installer_needs_nothing_but_the_standard_library() -> None:
    """Isolated from every installed package, it still tells its options."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from engine.install.cli import main;"
        "import engine.install.selfcheck, engine.install.shortcut;"
        "ours = {'engine', '__main__'} | set(sys.stdlib_module_names);"
        "bad = {name.split('.')[0] for name in sys.modules} - ours;"
        "bad = [name for name in bad if not name.startswith('_')]; assert not bad, bad; main(['--help'])"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 0, result.stderr
    assert "--dry-run" in result.stdout
