"""The command "captions": edit the captions of a dataset, or have a model write them. The .txt files do not change."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.jobs.control import Control, OnProgress
from engine.machine.units import counted
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from engine.data.caption_edits import Change
    from engine.data.dataset import Dataset


def add_parser(commands: Any) -> None:
    """Add "captions" to the command line's parsers."""
    parser = commands.add_parser("captions", help="edit captions, have a model write them, undo")
    parser.add_argument("dataset", help="the dataset's name")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--replace", nargs=2, metavar=("OLD", "NEW"), help="search and replace")
    what.add_argument("--prefix", help="add this text in front of every caption")
    what.add_argument("--suffix", help="add this text after every caption")
    what.add_argument("--trigger", help="add this word in front, unless the caption contains it")
    what.add_argument("--clean", action="store_true", help="remove HTML, URLs and strange characters")
    what.add_argument("--template", help="one caption for all images, for example 'a photo of {name}'")
    what.add_argument("--names", action="store_true", help="use the file names as captions")
    what.add_argument("--set", nargs=2, metavar=("KEY", "CAPTION"), help="set the caption of one image")
    what.add_argument(
        "--auto", metavar="MODEL", help="have BLIP or Florence-2 write them: a folder or a Hugging Face id"
    )
    what.add_argument("--undo", action="store_true", help="undo the last operation")
    parser.add_argument("--regex", action="store_true", help="with --replace: OLD is a regular expression")
    parser.add_argument("--ignore-case", action="store_true", help="with --replace: ignore upper and lower case")
    parser.add_argument("--whole-words", action="store_true", help="with --replace: whole words only")
    parser.add_argument("--only-empty", action="store_true", help="skip images that have a caption")
    parser.add_argument(
        "--length", choices=["short", "detailed", "long"], default="short", help="with --auto: length of the captions"
    )
    parser.add_argument("--batch", type=int, default=8, help="with --auto: images per batch")
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")


def run(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Do the operation, then print the state of the captions."""
    from engine.cli.output import EventPrinter
    from engine.data import caption_edits as edits
    from engine.data.dataset import Dataset

    console = EventPrinter()
    dataset = Dataset.open(workspace.existing_dataset(options.dataset))
    if options.undo:
        undone = dataset.captions.undo()
        console.say(
            f"Undone: {undone.what} ({counted(undone.changed, 'caption')})" if undone else "There is nothing to undo."
        )
    elif options.auto:
        _auto(options, dataset, workspace, control, console.progress, console.say)
    elif options.set:
        try:
            console.say(f"{counted(edits.set_captions(dataset, dict([options.set])), 'caption')} changed")
        except KeyError as error:
            raise UserError(
                f"{dataset.name} has no image {options.set[0]}.",
                "Images are named by their path in the dataset's folder.",
                "Enter the path relative to the dataset's folder, with forward slashes.",
            ) from error
    elif (chosen := _change(options)) is not None:
        what, change = chosen
        if options.dry_run:
            seen = edits.preview(dataset, change, control.token, console.progress)
            console.say(f"{what}: {seen.changed:,} of {counted(seen.total, 'caption')} would change")
            for key, before, after in seen.examples:
                console.say(f"  {key}\n    - {before}\n    + {after}")
        else:
            changed = edits.apply(dataset, what, change, control.token, console.progress)
            console.say(f"{what}: {counted(changed, 'caption')} changed")
    _print_state(dataset, console.say)
    return 0


def _change(options: argparse.Namespace) -> tuple[str, Change] | None:
    """The operation's name in the history, and its function from one caption to the next. None: no operation."""
    from engine.data import caption_edits as edits

    if options.replace:
        old, new = options.replace
        how: dict[str, bool] = {
            "regex": options.regex,
            "match_case": not options.ignore_case,
            "whole_words": options.whole_words,
        }
        return f"Replaced {old!r} by {new!r}", edits.replacing(old, new, **how)
    for name in ("prefix", "suffix", "trigger"):
        if (text := getattr(options, name)) is not None:
            return f"Added the {name} {text!r}", edits.adding(**{name: text})
    if options.clean:
        return "Cleaned", edits.cleaning()
    if options.template is not None:
        return f"Template {options.template!r}", edits.templating(options.template, options.only_empty)
    if options.names:
        return "From file names", edits.naming(options.only_empty)
    return None


def _auto(
    options: argparse.Namespace,
    dataset: Dataset,
    workspace: Workspace,
    control: Control,
    progress: OnProgress,
    say: Callable[[str], None],
) -> None:
    from engine.data.autocaption import caption_all, load

    captioner = load(options.auto, workspace.models)
    report = caption_all(
        dataset,
        captioner,
        control.token,
        progress,
        only_empty=options.only_empty,
        length=options.length,
        batch=max(1, options.batch),
    )
    failed = counted(len(report.failures), "image")
    say(f"{counted(report.written, 'caption')} written, {report.kept:,} kept, {failed} failed")
    for problem in report.failures:
        say(f"  {problem.what} {problem.why}")


def _print_state(dataset: Dataset, say: Callable[[str], None]) -> None:
    from engine.data import caption_edits as edits
    from engine.data.captions import meaning

    state = edits.empty(dataset)
    say(f"{dataset.name}: {counted(state.total, 'caption')}, {state.empty:,} empty. {meaning(state.share)}")
