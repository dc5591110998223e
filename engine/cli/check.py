"""The command "check": look for faults in a dataset, and act on the findings.

python -m engine.cli check birds
python -m engine.cli check birds --base sd35-medium --resolution 1024   (what its VAE leaves of thin lines)
python -m engine.cli check birds --fix exclude --finding blurred
python -m engine.cli check birds --fix correct --finding map_shifted
python -m engine.cli check birds --fix undo --finding blurred
"""

from __future__ import annotations

import argparse
from typing import Any

from engine.errors import UserError
from engine.jobs.control import Control
from engine.machine.units import counted, format_duration
from engine.workspace.paths import Workspace

SIGNS = {"serious": "!!", "warning": "! ", "note": "- "}
WIDTH = 100


def add_command(commands: Any) -> None:
    """Add "check" to the command line's parsers."""
    check = commands.add_parser("check", help="look for problems in a dataset: files, images, captions, maps")
    check.add_argument("dataset", help="the dataset's name")
    check.add_argument("--resolution", type=int, help="training resolution in pixels; default: that of the settings")
    check.add_argument(
        "--base", help="also look through this base's VAE, if its ControlNets read latents: what is left of thin lines"
    )
    check.add_argument("--fix", choices=["exclude", "correct", "undo"], help="act on a finding instead of checking")
    check.add_argument("--finding", action="append", default=[], metavar="NAME", help="the finding to act on")
    check.add_argument("--examples", type=int, default=3, help="number of files to print for each finding")


def check(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Act on findings if asked to, then check. Returns the exit status 0."""
    from engine.cli.output import EventPrinter
    from engine.config import RunConfig
    from engine.data.crop_plan import CropPlan
    from engine.data.dataset import Dataset
    from engine.data.doctor.check import check as check_dataset

    console = EventPrinter()
    settings = RunConfig().data
    dataset = Dataset.open(workspace.existing_dataset(options.dataset))
    if options.fix:
        _act(dataset, options.fix, options.finding, console, control)
    elif options.finding:
        raise UserError(
            "Nothing was done.",
            "--finding only says which problem to act on, not what to do.",
            "Add --fix exclude, correct or undo.",
        )
    done = check_dataset(
        dataset, options.resolution or settings.resolution, settings.held_out, control.token, console.progress
    )
    console.say(
        f"{counted(done.pictures, 'image')} checked ({done.measured:,} read) in {format_duration(done.seconds)}"
    )
    if options.base:
        _look(dataset, options.base, workspace, CropPlan(options.resolution or settings.resolution), console, control)
    _print(dataset, options.examples, console)
    return 0


def _look(dataset: Any, base: str, workspace: Workspace, plan: Any, console: Any, control: Control) -> None:
    """Say what a base's VAE leaves of the control images, and where to see it."""
    from engine.data.doctor.lost_lines import measure_lines

    workspace.locate_base(base)  # an unknown name is reported
    found = measure_lines(workspace, dataset, base, plan, control.token, console.progress)
    if found is None:
        console.say("ControlNets of this base read control images as pixels, or the dataset has none: nothing is lost.")
        return
    console.say(f"{found.words} {found.try_this}".strip())
    for one in found.seen:
        left = f"{one.lines.pixels:.0%}" if one.lines is not None else "no lines"
        console.say(f"     {one.sample.key}: {left}, {one.picture}")


def _act(dataset: Any, what: str, names: list[str], console: Any, control: Control) -> None:
    from engine.data.doctor import fix
    from engine.data.doctor.catalogue import named

    if not names:
        raise UserError("Nothing was done.", "--fix needs a finding to act on.", "Add --finding NAME.")
    for name in names:
        finding = named(name)
        if what == "correct":
            console.say(
                f"{finding.title}: {fix.correct(dataset, finding, control.token, console.progress):,} corrected"
            )
        elif what == "exclude":
            console.say(f"{finding.title}: {fix.exclude(dataset, finding):,} left out")
        else:
            console.say(f"{finding.title}: {fix.undo(dataset, finding):,} restored")


def _print(dataset: Any, examples: int, console: Any) -> None:
    from engine.data.doctor import fix
    from engine.data.doctor.check_store import CheckStore
    from engine.data.doctor.classes import FOLDERS, WORDS, counts_in

    about = CheckStore(dataset.folder).about()
    for title, name in (("Images by folder", FOLDERS), ("Images by word in the caption", WORDS)):
        if counts := counts_in(about, name):
            console.say(f"{title}: {', '.join(f'{of} {count:,}' for of, count in counts)}")
    states = fix.states(dataset)
    if not any(state.open for state in states):
        console.say("Nothing was found.")
    for state in states:
        finding = state.finding
        handled = f" ({state.excluded:,} left out, {state.corrected:,} corrected)" if state.total > state.open else ""
        console.say(f"\n{SIGNS[finding.severity]} {finding.title}: {state.open:,}{handled}   [{finding.name}]")
        if state.open:
            console.say(f"   {finding.why}\n   {finding.what_to_do}")
            for hit in fix.open_hits(dataset, finding)[: max(0, examples)]:
                console.say(f"     {hit.key}{': ' + hit.detail if hit.detail else ''}"[:WIDTH])
