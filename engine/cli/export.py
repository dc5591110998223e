"""The commands "export", "import-net", "merge" and "trim". The engine is loaded only when a command runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from engine.disk.typed_path import path_of
from engine.errors import UserError
from engine.export.formats import AS_TRAINED, FORMATS, PRECISIONS, usual_precision
from engine.export.sharing import QUESTIONS, left_open, read_sharing, save_answers, save_check
from engine.families.files import is_local
from engine.jobs.control import Control
from engine.machine.units import counted, format_bytes
from engine.workspace.paths import Workspace


def add_commands(commands: Any) -> None:
    """Add the commands to the command line's parsers."""
    export = commands.add_parser("export", help="write a checkpoint in a format that other programs load")
    export.add_argument("run", help="the run's folder name")
    export.add_argument("--step", type=int, help="step of the checkpoint; default: the newest")
    export.add_argument("--merged", help="instead of --step: the name of an average made with merge")
    export.add_argument(
        "--compare", action="store_true", help="measure size against quality of every format, and export nothing"
    )
    export.add_argument(
        "--pairs", type=int, default=0, help="held-out pairs for --compare; default: as many as the run's previews"
    )
    add_export_options(export)

    bring = commands.add_parser("import-net", help="import a ControlNet from a file or folder as a new run")
    bring.add_argument("file", type=path_of, help="a file or folder")
    bring.add_argument("--base", default="demo", help="the base it was trained for, as in the settings")
    bring.add_argument("--type", default="", help="its condition type; default: what the file says")
    bring.add_argument("--name", default="", help="name of the run; default: that of the file")

    merge = commands.add_parser("merge", help="average several checkpoints of a run, and export the average")
    merge.add_argument("run", help="the run's folder name")
    merge.add_argument("--steps", type=int, nargs="+", help="steps of the checkpoints; default: all on the disk")
    merge.add_argument("--kind", choices=["equal", "ema"], default="equal", help="ema: later checkpoints count more")
    merge.add_argument("--decay", type=float, default=0.999, help="decay per step, with --kind ema; default: 0.999")
    add_export_options(merge)

    trim = commands.add_parser("trim", help="shrink old checkpoints: delete what is only needed to resume")
    trim.add_argument("run", help="the run's folder name")
    trim.add_argument(
        "--keep", type=int, default=1, help="how many of the newest checkpoints stay resumable; default: 1"
    )


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that "export" and "merge" share."""
    known = f"{', '.join(way.name for way in FORMATS)}; of a trained base also lora"
    parser.add_argument("--format", default="single_file", help=known)
    parser.add_argument(
        "--precision", choices=[choice.name for choice in PRECISIONS], help="default: fp16; of --format onnx: fp32"
    )
    parser.add_argument("--weights", choices=["plain", "ema"], help="default: the EMA weights if there are any")
    parser.add_argument(
        "--rank",
        type=int,
        default=AS_TRAINED,
        help="rank of a Control-LoRA or LoRA; default: as it was trained, else 128",
    )
    parser.add_argument("--name", help="name of the file; default: the run's name")
    parser.add_argument("--out", type=path_of, help="folder; default: the run's exports folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    card = parser.add_argument_group("for the model card, kept with the run")
    for one in QUESTIONS:
        card.add_argument(f"--{one.name.replace('_', '-')}", metavar="TEXT", help=f"{one.title}. {one.info}")
    card.add_argument(
        "--check-data",
        action="store_true",
        help="look for near copies of training images among the drawn ones, and count the words of the captions",
    )


def _export(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    from engine.export.checkpoint_average import averaged_checkpoints
    from engine.runs.choice import choose_checkpoint
    from engine.runs.run import Run

    run = Run(workspace.run_folder(options.run))
    if options.merged:
        names = {c.folder.name: c for c in averaged_checkpoints(run.folder)}
        if options.merged not in names:
            known = ", ".join(names) or "none"
            raise UserError(f"{run.name} has no average {options.merged}.", f"Its averages: {known}.", "Choose one.")
        return _write(options, workspace, control, run, names[options.merged])
    chosen, notices = choose_checkpoint(run, options.step)
    for sentence in notices:
        print(sentence)
    if options.compare:
        return _compare(options, workspace, control, run, chosen)
    return _write(options, workspace, control, run, chosen)


def _write(options: argparse.Namespace, workspace: Workspace, control: Control, run: Any, checkpoint: Any) -> int:
    from engine.cli.output import EventPrinter
    from engine.export import export
    from engine.export.quantization_check import QuantizationCheck

    try:
        base = workspace.locate_base(run.config.model.whole_base)
        base = base if is_local(base) else ""  # on the hub: not downloaded for the check
    except UserError:
        base = ""  # not found: only a Control-LoRA needs it, and reports it
    _fill_card(options, workspace, control, run, checkpoint)
    result = export(
        checkpoint.folder,
        options.format,
        options.out or run.exports,
        options.name or run.config.name,
        precision=options.precision or usual_precision(options.format),
        weights=options.weights,
        overwrite=options.overwrite,
        token=control.token,
        base=base,
        rank=options.rank,
        quantization_check=QuantizationCheck(workspace, run, checkpoint, control.token, EventPrinter().progress),
    )
    what = f"step {checkpoint.step:,}"
    print(f"{result.path} ({what}, {format_bytes(result.bytes)}; {result.checked})")
    if still_open := left_open(read_sharing(run.folder), checkpoint.folder.name):
        print(f"Before you share it: the model card does not say yet: {'; '.join(still_open)}.")
    return 0


def _fill_card(options: argparse.Namespace, workspace: Workspace, control: Control, run: Any, checkpoint: Any) -> None:
    """Keep the given answers with the run, and measure what the card says of the training data if asked to."""
    given = {one.name: getattr(options, one.name) for one in QUESTIONS}
    answers = {name: text for name, text in given.items() if text is not None}
    if answers:
        save_answers(run.folder, answers)
    if options.check_data:
        from engine.cli.output import EventPrinter
        from engine.export.data_check import check_data

        check = check_data(workspace, run, checkpoint, control.token, EventPrinter().progress)
        save_check(run.folder, checkpoint.folder.name, check)


def _compare(options: argparse.Namespace, workspace: Workspace, control: Control, run: Any, checkpoint: Any) -> int:
    from engine.cli.output import EventPrinter
    from engine.export.compare import compare
    from engine.export.size_table import as_text

    console = EventPrinter()
    table = compare(
        workspace,
        run,
        checkpoint,
        options.weights,
        images=options.pairs,
        token=control.token,
        progress=console.progress,
    )
    console.say(as_text(table))
    return 0


def _import(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    from engine.export.imported_run import import_as_run

    run = import_as_run(workspace, options.file, options.base, options.type, options.name, control.token)
    print(f"{run.name}: {run.condition['type']}, ready to try, export, or train further: {run.checkpoints()[0].folder}")
    return 0


def _merge(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    from engine.cli.output import EventPrinter
    from engine.export.checkpoint_average import FOLDER, average_checkpoints, checkpoints_at
    from engine.runs.checkpoints import read_checkpoint
    from engine.runs.run import Run

    console = EventPrinter()
    run = Run(workspace.run_folder(options.run))
    chosen = checkpoints_at(run, options.steps)
    folder = average_checkpoints(
        chosen, run.folder / FOLDER, options.name or "", options.kind, options.decay, control.token, console.progress
    )
    console.say(f"The average of steps {', '.join(f'{c.step:,}' for c in chosen)}: {folder}")
    options.name = options.name or f"{run.config.name}-{folder.name}"
    checkpoint = read_checkpoint(folder)
    return _write(options, workspace, control, run, checkpoint)


def _trim(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    from engine.runs.cleanup import trim

    count, freed = trim(workspace.run_folder(options.run), options.keep)
    print(f"{counted(count, 'checkpoint')} trimmed, {format_bytes(freed)} freed; the weights are as they were.")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, Workspace, Control], int]] = {
    "export": _export,
    "import-net": _import,
    "merge": _merge,
    "trim": _trim,
}
