"""A step shared by several processes: the same pictures, in the same order, whatever their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.config import RunConfig
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.training.trainer import Trainer


def dealt(config: RunConfig, count: int) -> tuple[RunConfig, str]:
    """The settings with which ``count`` processes do together what one would do, and a sentence about it.

    A step has ``batch_size`` x ``accumulation`` pictures in all. Batches that would have been added up one after
    another are dealt to the processes; where there are too few of them, each is cut into smaller ones. In the settings
    that come back ``batch_size`` is what one process sees at once, ``accumulation`` the batches of a whole step.

    Raises:
        UserError: the pictures of a step cannot be dealt evenly.
    """
    if count == 1:
        return config, ""
    train, pictures = config.train, config.images_per_step
    if pictures % count:
        fitting = -(-pictures // count) * count
        raise UserError(
            f"{count} processes cannot share a step of {pictures} pictures evenly.",
            f"Batch size {train.batch_size} x gradient accumulation {train.accumulation} is {pictures}, which "
            f"{count} does not divide.",
            f"Choose a batch size and accumulation whose product it divides ({fitting}, say), or start another number "
            "of processes.",
        )
    sizes = range(train.batch_size, 0, -1)
    size = next(s for s in sizes if train.batch_size % s == 0 and pictures // s % count == 0)
    changes = {"batch_size": size, "accumulation": pictures // size}
    shared = config.model_copy(update={"train": train.model_copy(update=changes)})
    times = f", {pictures // size // count} times" if pictures // size > count else ""
    words = f"{count} processes share the {pictures} pictures of a step: {size} at a time on each{times}."
    return shared, words


def align(trainer: Trainer) -> None:
    """Before the first step: all processes stand at the same one, with main's weights.

    Raises:
        UserError: they have found different checkpoints.
    """
    group = trainer.processes
    if len(set(group.gather(trainer.step))) > 1:
        raise UserError(
            "The processes would start from different steps.",
            f"They see different checkpoints in {trainer.run_folder}.",
            "The workspace must be one folder that all machines share (docs/several-cards.md).",
        )
    group.align(trainer.learning.parameters())
    trainer.nets.refresh()
