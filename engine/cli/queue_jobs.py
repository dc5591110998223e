"""Turns a command line such as "extract birds --type canny" into a job of the queue, for "queue add"."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from engine.cli import add_images, compare, evaluate, train
from engine.cli.options import parse_settings
from engine.config import describe
from engine.config.presets import flatten
from engine.errors import UserError
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from engine.queue.job import QueuedJob

EXPORTED = ("base", "format", "precision", "name", "overwrite")
"""Options of "bases export" that its job has, too."""


def job_from(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    """The job of a command with these options.

    Raises:
        UserError: the command cannot be queued, nor one of its options, or a setting is wrong.
    """
    command = COMMANDS.get(options.command)
    if command is None:
        raise UserError(
            f"The command {options.command} cannot be queued.",
            f"These can be queued: {', '.join(name for name in COMMANDS if name != 'scan')}.",
            "Run it by itself.",
        )
    try:
        return command(options, workspace)
    except ValidationError as error:
        raise UserError("This job cannot be queued.", describe(error), "Correct these options.") from error


def _read(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.data_jobs import ImportDataset

    _refuse(options, "json")
    name = options.name or ""
    return ImportDataset(place=add_images.place_of(options), name=name, options=add_images.import_settings(options))


def _captions(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.data_jobs import WriteCaptions

    if not options.auto:
        raise UserError(
            "This cannot be queued.",
            "Only writing captions with a model can be queued; other caption commands take just a moment.",
            "Add --auto MODEL, or run the command by itself.",
        )
    _refuse(options, "dry_run")
    return WriteCaptions(
        dataset=options.dataset,
        model=options.auto,
        length=options.length,
        only_empty=options.only_empty,
        batch=min(256, max(1, options.batch)),
    )


def _bases(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.bases.catalog import catalog_bases, hub_id
    from engine.queue.download_jobs import DownloadBase
    from engine.queue.tuned_base_jobs import ExportBase

    if options.action == "export":
        out = str(options.out.absolute()) if options.out else ""
        return ExportBase(folder=out, **{name: getattr(options, name) for name in EXPORTED})
    _only(options, "get")
    return DownloadBase(base=hub_id(options.name, catalog_bases()))  # an unknown name is reported now


def _datasets(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.data.dataset_catalog import dataset_named
    from engine.queue.download_jobs import DownloadDataset

    _only(options, "get")
    return DownloadDataset(name=dataset_named(options.name).name)


def _check(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.config import RunConfig
    from engine.data.doctor.catalogue import named
    from engine.queue.data_jobs import CheckDataset

    if options.fix not in (None, "correct"):
        raise UserError(f"--fix {options.fix} cannot be queued.", "It takes only a moment.", "Run it by itself.")
    if bool(options.fix) != bool(options.finding):
        raise UserError(
            "Nothing was queued.",
            "--fix correct and --finding only work together.",
            "Give both, or neither.",
        )
    data = RunConfig().data
    correct = tuple(named(name).name for name in options.finding)
    side = options.resolution or data.resolution
    return CheckDataset(
        dataset=options.dataset, resolution=side, held_out=data.held_out, correct=correct, base=options.base or ""
    )


def _maps(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.conditions import registry
    from engine.queue.data_jobs import MakeMaps

    _refuse(options, "processes")
    given = parse_settings(options.set)
    registry.resolve_parameters(registry.get(options.type).name, given)  # reports wrong values now, not at night
    return MakeMaps(
        dataset=options.dataset,
        type=options.type,
        parameters=given,
        side=options.side,
        varied=options.vary,
        download=options.download,
    )


def _trial(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.net_jobs import Trial

    _refuse(options, "on")
    return Trial(config=train.settings_of(options, workspace)[0].model_dump(mode="json"))


def _train(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.run_jobs import Train

    _refuse(options, "write", "dry_run", "processes")
    if options.on:
        from engine.queue.tuned_base_jobs import TrainOnTunedBase

        return TrainOnTunedBase(on=options.on, preset=train.preset_of(options), own=train.own_settings(options))
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


def _transfer(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.run_jobs import CheckpointChoice
    from engine.queue.tuned_base_jobs import MeasureTransfer

    checkpoint: CheckpointChoice = "newest" if options.checkpoint is None else options.checkpoint
    return MeasureTransfer(run=options.run, files=evaluate.files_of(options), checkpoint=checkpoint)


def _grid(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.run_jobs import DrawGrid

    _refuse(options, "out")
    request = compare.request_of(options)
    fields = {name: getattr(request, name) for name in DrawGrid.model_fields if name != "run"}
    controls = tuple(path.absolute() for path in request.controls)
    return DrawGrid(run=options.run, **{**fields, "controls": controls})


def _export(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.net_jobs import CompareSizes
    from engine.queue.run_jobs import CheckpointChoice, Export

    _refuse(options, "merged")
    checkpoint: CheckpointChoice = "newest" if options.step is None else options.step
    if options.compare:
        return CompareSizes(run=options.run, checkpoint=checkpoint, weights=options.weights, pairs=options.pairs)
    return Export(run=options.run, checkpoint=checkpoint, **_export_options(options))


def _merge(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.net_jobs import Average

    steps = tuple(options.steps) if options.steps else None
    given = _export_options(options)
    return Average(run=options.run, steps=steps, average=options.kind, decay=options.decay, **given)


def _import_net(options: argparse.Namespace, workspace: Workspace) -> QueuedJob:
    from engine.queue.net_jobs import ImportNet

    file = str(options.file.absolute())
    return ImportNet(file=file, base=options.base, type=options.type, name=options.name)


def _export_options(options: argparse.Namespace) -> dict[str, Any]:
    from engine.export.formats import usual_precision

    return {
        "format": options.format,
        "precision": options.precision or usual_precision(options.format),
        "weights": options.weights,
        "rank": options.rank,
        "name": options.name or "",
        "folder": str(options.out.absolute()) if options.out else "",
        "overwrite": options.overwrite,
    }


def _only(options: argparse.Namespace, action: str) -> None:
    """Raise UserError if the command was given another action: the others take a moment."""
    if options.action != action:
        raise UserError(
            f"{options.command} {options.action} cannot be queued.",
            f"Of this command, only {action} takes long enough to be queued.",
            "Run it by itself.",
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
    "bases": _bases,
    "datasets": _datasets,
    "import": _read,
    "scan": _read,
    "check": _check,
    "captions": _captions,
    "extract": _maps,
    "trial": _trial,
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "transfer": _transfer,
    "grid": _grid,
    "export": _export,
    "merge": _merge,
    "import-net": _import_net,
}
