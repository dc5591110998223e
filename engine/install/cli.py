"""The command line of install.sh and install.bat."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.disk.typed_path import typed_path
from engine.install import doctor, preflight
from engine.install.console import Console, InstallError
from engine.install.exchange import read_journal
from engine.install.failures import known_failure
from engine.install.hardware import detect_gpus
from engine.install.in_use import only_one, require_closed
from engine.install.job import Job, print_plan, run_steps
from engine.install.launch import hand_over, run_checks
from engine.install.layout import Layout, clean_environment, installed_torch, note, read_record
from engine.install.pip import Pip
from engine.install.places import show, workspace_of
from engine.install.shortcut import make_shortcut
from engine.install.sizes import download_sentence
from engine.install.steps import APP_STEPS, TEST_STEPS, is_ready, remove_venv, torch_suits
from engine.install.torch_choice import MAKERS, Choice, choose
from engine.install.uninstall import uninstall
from engine.install.update import INSTALL_ONLY, WITHIN_UPDATE, plan, repair, update

CALLED_FROM = "STUDIO_CALLED_FROM"  # set by install.sh and install.bat
DESCRIPTION = "Installs ControlNet Studio into this folder if needed, then starts it and opens the browser."


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the options. Words after ``--`` are passed on to the demo or to pytest."""
    words = list(arguments)
    split = words.index("--") if "--" in words else len(words)
    own, extra = words[:split], words[split + 1 :]
    parser = argparse.ArgumentParser(prog="install.bat" if os.name == "nt" else "install.sh", description=DESCRIPTION)
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--test", action="store_true", help="lint, type-check and run the tests")
    task.add_argument("--demo", action="store_true", help="train the demo ControlNet without a window and score it")
    task.add_argument("--doctor", action="store_true", help="report what is installed, what is wrong and how to fix it")
    task.add_argument("--shortcut", action="store_true", help="put a shortcut on the desktop")
    task.add_argument("--where", action="store_true", help="show what lies where and how large it is")
    task.add_argument("--uninstall", action="store_true", help="delete what was installed, after asking")
    task.add_argument(INSTALL_ONLY, action="store_true", help="install what is needed without starting the app")
    task.add_argument(
        "--update",
        nargs="?",
        const="",
        metavar="ARCHIVE",
        help="get the newest version (with git if this is a clone; otherwise from its zip file, or from the one you "
        "name)",
    )
    parser.add_argument("--base", metavar="NAME", help="with --demo: demo (a UNet) or demo-transformer")
    parser.add_argument("--long", action="store_true", help="with --test: run only the tests that take minutes")
    parser.add_argument("--yes", action="store_true", help="with --uninstall: do not ask")
    parser.add_argument("--repair", action="store_true", help="delete the Python environment and create it again")
    parser.add_argument(  # read by install.sh and install.bat
        "--private-python",
        action="store_true",
        help="use a Python of the app's own even if this computer has a suitable one (with --repair, if installed)",
    )
    device = parser.add_mutually_exclusive_group()
    device.add_argument("--cpu", action="store_true", help="do not use the graphics card (until --repair)")
    device.add_argument(
        "--maker",
        choices=tuple(MAKERS),
        help="use the graphics card of this maker, where there are several (until --repair)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, without doing it")
    window = parser.add_argument_group("the window")
    window.add_argument("--no-browser", action="store_true", help="do not open the browser")
    window.add_argument("--card", type=int, metavar="N", help="number of the graphics card, from 0")
    window.add_argument("--listen", action="store_true", help="let other computers connect (needs --password)")
    window.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also accept requests for this host name (repeatable)",
    )
    window.add_argument("--password", metavar="WORD", help="ask for this password")
    window.add_argument("--port", type=int, metavar="N", help="the port to answer on")
    window.add_argument("--workspace", metavar="DIR", help="folder of datasets, runs and models")
    options = parser.parse_args(own)
    if extra and not (options.test or options.demo):
        parser.error("arguments after -- need --test or --demo")
    if options.base and not options.demo:
        parser.error("--base needs --demo")
    if options.long and not options.test:
        parser.error("--long needs --test")
    if options.yes and not options.uninstall:
        parser.error("--yes needs --uninstall")
    options.extra = extra
    for name in ("update", "workspace"):
        given = getattr(options, name)
        if given:  # --update without a word is ""
            setattr(options, name, _path(given))
            if not getattr(options, name):
                parser.error(f"--{name}: no path is given")
    return options


def _path(text: str) -> str:
    """The path or web address that the user means. Paths are relative to the folder from which they have called.

    install.sh and install.bat change into the app's folder.
    """
    with contextlib.ExitStack() as at:
        with contextlib.suppress(OSError):  # that folder is gone
            at.enter_context(contextlib.chdir(os.environ.get(CALLED_FROM, ".")))
        path = typed_path(text)
        is_address = path.lower().startswith(("http://", "https://"))
        return path if is_address or not path else str(Path(path).absolute())


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Run the command. Returns the started program's exit status, 1 for an explained error, 130 for Ctrl-C."""
    options = parse(arguments)
    layout = Layout((root or Path(__file__).parents[2]).resolve())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that cannot show a character must not stop the installer
    looks = options.dry_run or options.doctor or options.where
    console = Console(None if looks or options.uninstall else layout.log)
    try:
        if read_journal(layout) is not None and WITHIN_UPDATE not in os.environ and not looks:
            environment = clean_environment(os.environ)
            repair(layout, console, environment)
            # What is imported here may be the other version's: the old one does what was asked.
            return hand_over(layout, ["-m", "engine.install", *arguments], environment, Path(sys.executable))
        return _run(options, layout, console)
    except InstallError as error:
        console.fail(error)
        return error.code
    except KeyboardInterrupt:
        console.say("\nStopped. Start it again to continue where it left off.")
        return 130
    except BrokenPipeError:  # the reader of the output is gone (`| head`), so nothing can be printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        known = known_failure(str(error))
        cause, fix = known or (f"{type(error).__name__}: {error}", "Check the disk and the folder, then start again.")
        console.fail(InstallError(cause, fix))
        return 1


def _run(options: argparse.Namespace, layout: Layout, console: Console) -> int:
    environment = clean_environment(os.environ)
    if options.doctor:
        text, well = doctor.report(layout.root)
        console.say(text)
        return 0 if well else 1
    if options.where or (options.uninstall and options.dry_run):
        show(layout, console, workspace_of(layout, options.workspace))
        return 0
    if options.uninstall:
        return uninstall(layout, console, environment, workspace_of(layout, options.workspace), options.yes)
    if options.update is not None:
        if options.dry_run:
            console.say(plan(layout, options.update))
            return 0
        return update(layout, console, environment, options.update)
    _install(options, layout, console, environment)
    if options.dry_run or options.install_only:
        return 0
    if options.test:
        return run_checks(layout, console, environment, options.extra, long=options.long)
    if options.shortcut:
        console.say(f"Shortcut: {make_shortcut(layout.root)}")
        return 0
    if options.demo:
        workspace = ["--workspace", options.workspace] if options.workspace else []
        card = ["--card", str(options.card)] if options.card is not None else []
        demo = ["demo", *(["--base", options.base] if options.base else []), *options.extra]
        return hand_over(layout, ["-m", "engine.cli", *workspace, *card, *demo], environment)
    console.say("Starting. To stop it, close this window or press Ctrl-C.")
    return hand_over(layout, ["app.py", *_for_the_app(options)], environment)


def _install(options: argparse.Namespace, layout: Layout, console: Console, environment: dict[str, str]) -> None:
    """Run the steps, unless the record says that everything is installed."""
    asked = {} if options.repair else read_record(layout)
    force_cpu = options.cpu or bool(asked.get("cpu") and not options.maker)
    maker = options.maker or ("" if options.cpu else asked.get("maker", ""))
    # Only a CPU build can become the wrong one by itself: when the computer gets a card or a newer driver.
    could_change = options.cpu or (installed_torch(layout)[1] == "cpu" and not force_cpu)
    quick = not (options.repair or options.maker or options.test or options.dry_run)
    choice: Choice | None = None
    if quick and is_ready(layout, None):
        choice = choose(detect_gpus(timeout=3), force_cpu, maker=maker) if could_change else None
        if is_ready(layout, choice):
            return
    preflight.check_computer(preflight.Computer())
    report = detect_gpus()
    choice = choose(report, force_cpu, maker=maker)
    if options.maker and not choice.build.startswith(MAKERS[options.maker]):
        reasons = " ".join(choice.warnings[:-1])  # without the last, which says that the processor will be used
        raise InstallError(
            f"With --maker {options.maker} there is no card that PyTorch can use. {reasons}".strip(),
            "Start this without --maker, or with --doctor to see the cards that were found.",
        )
    is_ci = os.environ.get("CI", "").lower() == "true"
    job = Job(layout, console, Pip(layout, console, environment), report, choice, continuous_integration=is_ci)
    steps = TEST_STEPS if options.test else APP_STEPS
    downloads = options.repair or not torch_suits(layout, choice, sys.platform)
    if options.dry_run:
        if options.repair:
            console.say(f"would delete {layout.venv} and install everything again")
        for warning in choice.warnings:
            console.warn(warning)
        print_plan(job, steps)
        if downloads:
            console.say(download_sentence(choice))
        return
    preflight.check_folder(layout.root)
    if options.repair or downloads:
        require_closed(layout, console, environment, must_know=False)
    with only_one(layout, console=console):
        given = [name for name, value in vars(options).items() if value and name != "password"]
        console.record(f"=== {sys.executable} {', '.join(given) or '(no options)'}")
        if options.repair:
            console.say("Removing the old Python environment ...")
            remove_venv(layout)
        if downloads:
            console.say(download_sentence(choice))
        if options.cpu or options.maker:
            note(layout, cpu=options.cpu, maker=maker)
        run_steps(job, steps)


def _for_the_app(options: argparse.Namespace) -> list[str]:
    """The options that app.py gets."""
    handed = [flag for flag, given in (("--no-browser", options.no_browser), ("--listen", options.listen)) if given]
    handed += [word for name in options.allow_host for word in ("--allow-host", name)]
    for name in ("port", "card", "workspace", "password"):
        value = getattr(options, name)
        if value is not None:
            handed += [f"--{name}", str(value)]
    return handed
