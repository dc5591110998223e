"""The command ``captions``: edit the captions of a dataset, or have them written. The images' .txt files stay."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.jobs.control import Control
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from engine.data.caption_edits import Change
    from engine.data.dataset import Dataset


def add_parser(commands: Any) -> None:
    """The arguments of ``captions``."""
    parser = commands.add_parser("captions", help="edit captions, have them written, undo")
    parser.add_argument("dataset")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--replace", nargs=2, metavar=("OLD", "NEW"), help="search and replace")
    what.add_argument("--prefix", help="words in front of every caption")
    what.add_argument("--suffix", help="words behind every caption")
    what.add_argument("--trigger", help="a word in front, unless the caption has it already")
    what.add_argument("--clean", action="store_true", help="take HTML, addresses and strange characters away")
    what.add_argument("--template", help="one caption for all, for example 'a photo of {name}'")
    what.add_argument("--names", action="store_true", help="captions from file names")
    what.add_argument("--set", nargs=2, metavar=("KEY", "CAPTION"), help="the caption of one image")
    what.add_argument("--auto", metavar="MODEL", help="written by BLIP or Florence-2: a folder or a Hugging Face id")
    what.add_argument("--undo", action="store_true", help="take the last operation back")
    parser.add_argument("--regex", action="store_true", help="with --replace: OLD is a regular expression")
    parser.add_argument("--ignore-case", action="store_true", help="with --replace")
    parser.add_argument("--whole-words", action="store_true", help="with --replace")
    parser.add_argument("--only-empty", action="store_true", help="leave images alone that have a caption")
    parser.add_argument("--length", choices=["short", "detailed", "long"], default="short", help="with --auto")
    parser.add_argument("--batch", type=int, default=8, help="with --auto: images at a time")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")


def run(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Do what was asked for; without an operation tell how things are."""
    from engine.cli.output import Console
    from engine.data import caption_edits as edits
    from engine.data.dataset import Dataset

    console = Console()
    dataset = Dataset.open(workspace.dataset_folder(options.dataset))
    if options.undo:
        undone = dataset.captions.undo()
        console.say(f"Undone: {undone.what} ({undone.changed:,} captions)" if undone else "There is nothing to undo.")
    elif options.auto:
        _auto(options, dataset, workspace, control, console.progress, console.say)
    elif options.set:
        try:
            console.say(f"{edits.set_captions(dataset, dict([options.set])):,} caption changed")
        except KeyError as error:
            raise UserError(
                f"{dataset.name} has no image {options.set[0]}.", "Images are named by their path in the folder.",
                "Give the path as it is below the dataset's folder, with forward slashes.",
            ) from error  # fmt: skip
    elif (chosen := _change(options)) is not None:
        what, change = chosen
        if options.dry_run:
            seen = edits.preview(dataset, change, control.token, console.progress)
            console.say(f"{what}: {seen.changed:,} of {seen.total:,} captions would change")
            for key, before, after in seen.examples:
                console.say(f"  {key}\n    - {before}\n    + {after}")
        else:
            console.say(
                f"{what}: {edits.apply(dataset, what, change, control.token, console.progress):,} captions changed"
            )
    _tell(dataset, console.say)
    return 0


def _change(options: argparse.Namespace) -> tuple[str, Change] | None:
    """The operation's name in the history, and what it does to one caption."""
    from engine.data import caption_edits as edits

    if options.replace:
        old, new = options.replace
        how: dict[str, bool] = {
            "regex": options.regex, "match_case": not options.ignore_case, "whole_words": options.whole_words
        }  # fmt: skip
        return f"Replaced {old!r} by {new!r}", edits.replacing(old, new, **how)
    for name in ("prefix", "suffix", "trigger"):
        if (words := getattr(options, name)) is not None:
            return f"Added the {name} {words!r}", edits.adding(**{name: words})
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
    progress: Callable[[int, int, str], None],
    say: Callable[[str], None],
) -> None:
    from engine.data.autocaption import caption_all, load

    captioner = load(options.auto, workspace.models)
    report = caption_all(
        dataset, captioner, control.token, progress,
        only_empty=options.only_empty, length=options.length, batch=max(1, options.batch),
    )  # fmt: skip
    say(f"{report.written:,} captions written, {report.kept:,} kept, {len(report.failures):,} images failed")
    for problem in report.failures:
        say(f"  {problem.what} {problem.why}")


def _tell(dataset: Dataset, say: Callable[[str], None]) -> None:
    from engine.data import caption_edits as edits
    from engine.data.captions import meaning

    state = edits.empty(dataset)
    say(f"{dataset.name}: {state.total:,} captions, {state.empty:,} empty. {meaning(state.share)}")
