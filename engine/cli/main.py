"""ControlNet Studio on the command line.

python -m engine.cli demo
python -m engine.cli import ~/pictures --name birds      (or a list of URLs, archives, a Hugging Face id)
python -m engine.cli bases list            (bases get sd15: download one)
python -m engine.cli datasets list         (datasets get fill50k: download one)
python -m engine.cli check birds
python -m engine.cli captions birds --prefix "a photo of"
python -m engine.cli extract birds --type canny --set low=80
python -m engine.cli train run.toml        (or: train --dataset birds --base owner/name --preset 12gb)
python -m engine.cli resume RUN            (on several cards: docs/several-cards.md)
python -m engine.cli resume RUN --set optim.learning_rate=5e-6 --set train.steps=8000    (with other settings)
python -m engine.cli train --from-run RUN --set data.resolution=768      (a new run with its settings)
python -m engine.cli sample RUN --control map.png --prompt "red circle with blue background"
python -m engine.cli evaluate RUN --checkpoint 500     (does it follow its control images, is it damaged?)
python -m engine.cli transfer RUN style.safetensors    (does it obey on this LoRA?)
python -m engine.cli train --on RUN        (a ControlNet on what this run has taught its base)
python -m engine.cli export RUN --format single_file    (or: --compare, for the table of sizes and scores)
python -m engine.cli import-net net.safetensors --base owner/name
python -m engine.cli merge RUN --kind ema
python -m engine.cli trim RUN
python -m engine.cli grid RUN --steps 100,300,500
python -m engine.cli timelapse RUN
python -m engine.cli serve RUN      (an HTTP API: docs/serving.md)
python -m engine.cli queue add extract birds --type canny     (then: queue list, queue run)
python -m engine.cli doctor
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.cli import (
    add_images,
    bases,
    captions,
    check,
    compare,
    datasets,
    evaluate,
    export,
    processes,
    queue,
    sample,
    serve,
    train,
)
from engine.cli.advice import for_command_line
from engine.cli.options import add_processes, add_settings, parse_settings
from engine.cli.train import EXIT_INTERRUPTED
from engine.config.toml import join_words
from engine.disk.typed_path import path_of
from engine.distributed import group
from engine.distributed.launch import start_together
from engine.errors import Offer, UserError
from engine.jobs.control import Cancelled, Control
from engine.machine import environment
from engine.machine.cards import use_one
from engine.machine.units import counted
from engine.workspace.lock import WorkspaceLock, app_open
from engine.workspace.paths import Workspace, bundled_bases
from engine.workspace.remembered import CARD, remembered

EXIT_FELL_SHORT, EXIT_PROBLEM = 1, 2


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; None: that of this process."""
    parser = argparse.ArgumentParser(
        prog="engine.cli", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workspace", type=path_of, help="folder for datasets, runs and models")
    parser.add_argument(
        "--card",
        type=int,
        metavar="N",
        help="number of the graphics card to use, from 0 (NVIDIA's as in nvidia-smi); default: the one with the most "
        "memory",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser(
        "demo", help="make a dataset, train, score and export: proves that the installation works"
    )
    demo.add_argument("--count", type=int, default=None, help="pairs of the dataset")
    demo.add_argument("--base", choices=tuple(bundled_bases()), default="", help="the bundled base to train for")
    add_settings(demo)

    add_images.add_parser(commands)

    bases.add_command(commands)

    datasets.add_command(commands)

    check.add_command(commands)

    captions.add_parser(commands)

    extract = commands.add_parser("extract", help="make the control images of a dataset")
    extract.add_argument("dataset", help="the dataset's name")
    extract.add_argument("--type", required=True, help="condition type, for example canny")
    extract.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the condition type"
    )
    extract.add_argument("--side", type=int, help="shorter side of the maps in pixels; default: that of the images")
    extract.add_argument(
        "--vary",
        type=int,
        metavar="SEED",
        help="pick random parameters for each image, so that the net learns from weak and strong maps",
    )
    extract.add_argument("--download", action="store_true", help="download missing weights")
    add_processes(extract)

    train.add_commands(commands)
    sample.add_command(commands)
    serve.add_command(commands)
    compare.add_commands(commands)
    evaluate.add_commands(commands)
    export.add_commands(commands)
    queue.add_command(commands)
    commands.add_parser("doctor", help="show this machine, the versions, and what is wrong")
    options = parser.parse_args(arguments)
    if options.card is not None and getattr(options, "processes", 1) > 1:
        parser.error("--card chooses a single card, and --processes uses several: leave one of them out.")
    if options.command == "queue" and options.action == "add":
        options.job = parser.parse_args(options.arguments)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 success, 1 the demo fell short, 2 a problem, 130 interrupted."""
    options = parse_arguments(arguments)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    environment.prepare()
    if getattr(options, "processes", 1) > group.started():
        return start_together(sys.argv[1:] if arguments is None else arguments, options.processes)
    control = Control()
    interrupts = _pause_on_signals(control, options.command)
    try:
        return processes.run_together(options, lambda: _do(options, control))
    except UserError as error:
        if processes.prints_error(error):
            why, advice = for_command_line(error.why), for_command_line(error.try_this)
            print(f"\n{error.what}\n  Why: {why}\n  Try: {advice}", file=sys.stderr)
            print("".join(_offered(offer, options.workspace) for offer in error.offers), end="", file=sys.stderr)
        return EXIT_PROBLEM
    except Cancelled as error:
        if processes.prints_error(error):
            print("\nInterrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        for number, handler in interrupts.items():
            signal.signal(number, handler)


def _do(options: argparse.Namespace, control: Control) -> int:
    workspace = Workspace(options.workspace)
    if group.started() == 1:
        use_one(options.card, remembered(workspace).get(CARD, ""))  # before torch is imported
    elif options.card is not None:
        raise UserError(
            "--card cannot be used here.",
            "There are several processes, and each uses its own card.",
            "Leave --card out.",
        )
    exclusive = options.command in EXCLUSIVE and processes.is_main()
    doing = f"the command {options.command}"
    with WorkspaceLock(workspace, doing) if exclusive else app_open(doing):
        return COMMANDS[options.command](options, workspace, control)


def _offered(offer: Offer, workspace: Path | None) -> str:
    """Two lines: a way to resume the run that may help, and its command."""
    words = ["python", "-m", "engine.cli", *(["--workspace", str(workspace)] if workspace else []), *offer.arguments]
    return f"  {offer.title} ({offer.words}):\n    {join_words(words)}\n"


def _pause_on_signals(control: Control, command: str) -> dict[int, Any]:
    """Make Ctrl-C, SIGTERM and a closed terminal save and end; a second Ctrl-C ends at once.

    Returns the handlers that were set before.
    """
    times = 0

    def handle(number: int, _frame: Any) -> None:
        nonlocal times
        control.pause()
        times += number in (signal.SIGINT, signal.SIGTERM)  # a closed terminal may send several signals
        if times > 1:
            raise KeyboardInterrupt
        if processes.is_main():
            with suppress(OSError):  # the terminal may be gone
                then = "ending: what waits is drawn after the next start" if command == "serve" else "saving"
                words = f"\nFinishing this step, then {then}. Press Ctrl-C again to stop at once."
                print(words, file=sys.stderr, flush=True)

    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP") if hasattr(signal, name)]
    return {number: signal.signal(number, handle) for number in known}


def _demo(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    from engine.cli.demo import run_demo
    from engine.cli.output import EventPrinter
    from engine.demo.sets import DEFAULT_COUNT

    console = EventPrinter()
    result = run_demo(
        workspace,
        control.token,
        console.event,
        console.progress,
        console.say,
        options.count or DEFAULT_COUNT,
        parse_settings(options.set),
        options.base,
    )
    for sentence in result.shortfalls:
        console.say("Too low or too high: " + sentence)
    if not result.shortfalls:
        console.say("The installation works: the net follows the outlines and draws in the colours of the prompt.")
    return EXIT_FELL_SHORT if result.shortfalls else 0


def _extract(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    from engine.cli.output import grouped
    from engine.conditions import places, ready, registry, weights
    from engine.data.dataset import Dataset
    from engine.data.make_maps import make_all

    console, among = processes.console(), group.current()
    places.use(workspace)
    dataset = Dataset.open(workspace.existing_dataset(options.dataset))
    kind = registry.get(options.type)
    given = dataset.like_its_maps(kind.name, parse_settings(options.set))
    values = registry.resolve_parameters(kind.name, given)
    ready.allow(kind, values)
    if options.download and (missing := among.broadcast(lambda: weights.missing(kind, values))):
        console.say("\n".join(f"Downloading {entry.sentence}" for entry in missing))
        among.broadcast(lambda: weights.download(missing, control.token))
    report = make_all(
        dataset,
        kind.name,
        given,
        control.token,
        console.progress,
        resolution=options.side,
        varied=options.vary,
        group=among,
    )
    console.say(f"{counted(report.made, 'map')} made, {report.kept:,} kept, {len(report.failures):,} failed")
    for sentence in grouped([*report.failures, *report.warnings]):
        console.say(f"  {sentence}")
    return 0


def _doctor(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    from engine.support.doctor import report

    print(report(workspace))
    return 0


COMMANDS = {
    "demo": _demo,
    "import": add_images.run,
    "scan": add_images.run,
    "bases": bases.run,
    "datasets": datasets.run,
    "check": check.check,
    "captions": captions.run,
    "extract": _extract,
    **train.COMMANDS,
    "sample": sample.run,
    "serve": serve.run,
    "doctor": _doctor,
    **compare.COMMANDS,
    **evaluate.COMMANDS,
    **export.COMMANDS,
    "queue": queue.run,
}

EXCLUSIVE = ("demo", "import", "scan", "captions", "extract", "train", "resume", "trial", "import-net", "merge", "trim")
"""Commands that write into the workspace. They cannot run while a window has it open."""
