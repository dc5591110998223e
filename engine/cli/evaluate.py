"""The command "evaluate": the full evaluation of one checkpoint.

python -m engine.cli evaluate RUN
python -m engine.cli evaluate RUN --checkpoint 500 --pairs 128 --json
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from engine.errors import UserError
from engine.jobs.control import Control
from engine.workspace.paths import Workspace


def add_command(commands: Any) -> None:
    """Add "evaluate" to the command line's parsers."""
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
