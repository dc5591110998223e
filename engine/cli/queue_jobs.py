"""Turns a command line such as "extract birds --type canny" into a job of the queue, for "queue add"."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import ValidationError

from engine.cli import add_images, compare, train
from engine.cli.options import parse_settings
from engine.config import describe
from engine.config.presets import flatten
from engine.errors import UserError
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from engine.queue.job import QueuedJob


def job_from(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    """The job of a command with these options.

    Raises:
        UserError: the command cannot be queued, nor one of its options, or a setting is wrong.
    """
    command = COMMANDS.get(options.command)
    if command is None:
        raise UserError(
            f"The command {options.command} cannot be queued.",
            f"Jobs of the queue are: {', '.join(name for name in COMMANDS if name != 'scan')}.",
            "Run it by itself.",
        )
    try:
        return command(options, workspace)
    except ValidationError as error:
        raise UserError("This job cannot be queued.", describe(error), "Correct these options.") from error


def _read(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.data_jobs import Read

    _refuse(options, "json")
    name = options.name or ""
    return Read(place=add_images.place_of(options), name=name, options=add_images.import_settings(options))


def _captions(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.data_jobs import Captions

    if not options.auto:
        raise UserError(
            "This cannot be queued.",
            "Of the caption commands, only writing captions with a model takes long enough.",
            "Add --auto MODEL, or run the command by itself.",
        )
    _refuse(options, "dry_run")
    return Captions(
        dataset=options.dataset,
        model=options.auto,
        length=options.length,
        only_empty=options.only_empty,
        batch=min(256, max(1, options.batch)),
    )


def _maps(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.conditions import registry
    from engine.queue.data_jobs import Maps

    _refuse(options, "download", "processes")
    given = parse_settings(options.set)
    registry.resolve_parameters(registry.get(options.type).name, given)  # a wrong one is said now, not at night
    return Maps(dataset=options.dataset, type=options.type, parameters=given, side=options.side, varied=options.vary)


def _train(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.run_jobs import Train

    _refuse(options, "write", "dry_run", "processes")
    config, origins = train.settings_of(options, workspace)
    return Train(config=config.model_dump(mode="json"), origins=origins)


def _resume(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.run_jobs import Resume

    _refuse(options, "processes")
    return Resume(run=options.run, changes=flatten(parse_settings(options.set)), from_step=options.from_step)


def _evaluate(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.run_jobs import CheckpointChoice, Evaluate

    _refuse(options, "clip", "download", "json")
    checkpoint: CheckpointChoice = "best" if options.checkpoint is None else options.checkpoint
    return Evaluate(run=options.run, checkpoint=checkpoint, pairs=min(512, max(2, options.pairs)))


def _grid(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.run_jobs import DrawGrid

    _refuse(options, "out")
    request = compare.request_of(options)
    fields = {name: getattr(request, name) for name in DrawGrid.model_fields if name != "run"}
    controls = tuple(path.absolute() for path in request.controls)
    return DrawGrid(run=options.run, **{**fields, "controls": controls})


def _export(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.run_jobs import Export

    _refuse(options, "merged", "compare")
    return Export(
        run=options.run,
        checkpoint="newest" if options.step is None else options.step,
        format=options.format,
        precision=options.precision,
        weights=options.weights,
        rank=options.rank,
        name=options.name or "",
        folder=str(options.out.absolute()) if options.out else "",
        overwrite=options.overwrite,
    )


def _refuse(options: argparse.Namespace, *names: str) -> None:
    """Raise UserError if one of these options was given."""
    for name in names:
        value = getattr(options, name)
        if value > 1 if name == "processes" else value:
            raise UserError(
                f"--{name.replace('_', '-')} cannot be queued.",
                f"Queued jobs do not support this option of {options.command}.",
                f"Leave it out, or run {options.command} by itself.",
            )


COMMANDS: dict[str, Callable[[argparse.Namespace, Workspace], QueuedJob]] = {
    "import": _read,
    "scan": _read,
    "captions": _captions,
    "extract": _maps,
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "grid": _grid,
    "export": _export,
}
