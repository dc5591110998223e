"""The commands "evaluate", the full evaluation of one checkpoint, and "transfer": does it obey on a LoRA?

python -m engine.cli evaluate RUN
python -m engine.cli evaluate RUN --checkpoint 500 --pairs 128 --json
python -m engine.cli transfer RUN style.safetensors:0.8 word.pt
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.jobs.control import Control
from engine.workspace.base_reference import parse_ingredients
from engine.workspace.paths import Workspace


def add_commands(commands: Any) -> None:
    """Add the commands to the command line's parsers."""
    evaluate = commands.add_parser(
        "evaluate",
        help="check whether a checkpoint follows its control images and whether it is damaged; takes minutes",
    )
    evaluate.add_argument("run", help="the run's folder name")
    evaluate.add_argument("--checkpoint", type=int, metavar="N", help="step of the checkpoint; default: the best one")
    evaluate.add_argument("--pairs", type=int, default=64, help="number of pairs, held-out ones first; default: 64")
    evaluate.add_argument("--clip", default=None, metavar="FOLDER_OR_ID", help="CLIP model; default: the run's setting")
    evaluate.add_argument("--download", action="store_true", help="download the CLIP model if it is missing")
    evaluate.add_argument("--json", action="store_true", help="print only the report, as JSON")
    transfer = commands.add_parser(
        "transfer", help="draw held-out pairs on the run's base and on it with LoRA files, and compare the adherence"
    )
    transfer.add_argument("run", help="the run's folder name")
    transfer.add_argument(
        "files",
        nargs="+",
        help="LoRA and embedding files; a weight other than 1 after a colon: style.safetensors:0.8",
    )
    transfer.add_argument("--checkpoint", type=int, metavar="N", help="step of the checkpoint; default: the newest")


def run(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Evaluate, print and write the report. Returns the exit status 0."""
    from engine.cli.output import EventPrinter
    from engine.conditions import places
    from engine.evaluation import clip, report
    from engine.evaluation.evaluate import evaluate, report_folder
    from engine.runs.run import Run

    places.use(workspace)
    console = EventPrinter(sys.stderr if options.json else None)
    found = Run(workspace.run_folder(options.run))
    wanted = found.config.validation.clip_model if options.clip is None else options.clip
    if options.download and clip.find(wanted) is None:
        console.say(f"Downloading {wanted or clip.MODEL.id}")
        clip.download(wanted, control.token)
    checkpoint = choose(found, options.checkpoint)
    result = evaluate(workspace, found, checkpoint, options.pairs, options.clip, control.token, console.progress)
    if options.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return 0
    console.say("\n" + report.headline(result))
    for words in report.warnings(result):
        console.say("! " + words)
    width = max(len(name) for name, _ in report.facts(result))
    for name, value in report.facts(result):
        console.say(f"  {name:<{width}}  {value}")
    console.say(f"Report: {report_folder(found, checkpoint.step) / report.HTML}")
    return 0


def transfer(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Draw the pairs on both bases, and print the result. Returns the exit status 0."""
    from engine.cli.output import EventPrinter
    from engine.conditions import places
    from engine.evaluation.transfer_job import measure_transfer
    from engine.evaluation.transfer_report import transfer_folder, transfer_text
    from engine.runs.choice import choose_checkpoint
    from engine.runs.run import Run

    places.use(workspace)
    console, found = EventPrinter(), Run(workspace.run_folder(options.run))
    checkpoint, notices = choose_checkpoint(found, options.checkpoint)
    for sentence in notices:
        console.say(sentence)
    result = measure_transfer(workspace, found, checkpoint, files_of(options), control.token, console.progress)
    console.say(f"Step {checkpoint.step:,}: {transfer_text(result)}")
    console.say(f"Images: {transfer_folder(found.folder, checkpoint.step)}")
    return 0


def files_of(options: argparse.Namespace) -> str:
    """The files of "transfer", one a line. A file of the current folder gets its whole path, for the queue.

    Raises:
        UserError: a weight is not a number within bounds.
    """
    try:
        listed = parse_ingredients("\n".join(options.files))
    except ValueError as error:
        raise UserError("The files were not read.", f"In the list, {error}.", "Correct the list.") from error
    paths = [(one, Path(one.file).expanduser()) for one in listed]
    return "\n".join(str(replace(one, file=str(path.absolute())) if path.exists() else one) for one, path in paths)


def choose(run: Any, step: int | None) -> Any:
    """The checkpoint of a step, or the best one by the verdict for None.

    Raises:
        UserError: there is none.
    """
    from engine.evaluation.run_verdict import judge_run

    checkpoints = run.checkpoints()
    if step is None and checkpoints:
        history = run.history()
        best = judge_run(run.config, history, history.kept).best
        step = best or checkpoints[-1].step
    for checkpoint in checkpoints:
        if checkpoint.step == step:
            return checkpoint
    known = ", ".join(str(checkpoint.step) for checkpoint in checkpoints) or "none"
    raise UserError(
        f"{run.name} has no checkpoint of step {step}." if step is not None else f"{run.name} has no checkpoint.",
        f"Complete checkpoints on disk: {known}.",
        "Choose one of these, or train until the next one is saved.",
    )


COMMANDS = {"evaluate": run, "transfer": transfer}
