"""What the processes of a run agree on before its first step: shares of a step, precision, step and weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from engine.config import RunConfig
from engine.distributed.group import ProcessGroup
from engine.errors import UserError
from engine.machine.precision import DTYPES
from engine.machine.units import counted
from engine.tuning.facts import facts_of


def split_among(config: RunConfig, world_size: int) -> tuple[RunConfig, str]:
    """Settings with which ``world_size`` processes together compute the steps of one, and a sentence about them.

    A step has ``batch_size`` x ``accumulation`` images in all. Micro-batches are assigned to the processes; if there
    are too few, each is split into smaller ones. In the returned settings ``batch_size`` is what one process computes
    at once, and ``accumulation`` the number of micro-batches in a whole step.

    Raises:
        UserError: the images of a step cannot be split evenly, or what is trained is too small to be shared.
    """
    if world_size == 1:
        return config, ""
    if (trained := facts_of(config)).one_card:
        raise UserError(
            "This run cannot be shared by several processes.",
            f"It trains {trained.trains}, which is so small that several cards would gain nothing.",
            "Start it on one card.",
        )
    train, images = config.train, config.images_per_step
    if images % world_size:
        fitting = -(-images // world_size) * world_size
        raise UserError(
            f"{world_size} processes cannot split a step of {counted(images, 'image')} evenly.",
            f"Batch size {train.batch_size} x gradient accumulation {train.accumulation} is {images}, which is not a "
            f"multiple of {world_size}.",
            f"Choose a batch size and accumulation whose product is a multiple of {world_size}, such as {fitting}, "
            "or start a different number of processes.",
        )
    sizes = range(train.batch_size, 0, -1)
    size = next(s for s in sizes if train.batch_size % s == 0 and images // s % world_size == 0)
    changes = {"batch_size": size, "accumulation": images // size}
    shared = config.model_copy(update={"train": train.model_copy(update=changes)})
    times = f", {counted(images // size // world_size, 'time')}" if images // size > world_size else ""
    return (
        shared,
        f"{world_size} processes split the {counted(images, 'image')} of a step: {size} at a time on each{times}.",
    )


def agree_on_precision(group: ProcessGroup, usable: str, remark: str) -> tuple[str, str]:
    """One precision for all processes, whose cards may differ, and a sentence about it.

    Gradients of different precisions, and of different loss scales, must not be averaged.

    Args:
        usable: the precision that this process can use; ``remark``: why it is not the wanted one (empty if it is).

    Returns:
        The finest of the precisions that the processes named: every device can compute in those finer than its own.
    """
    named = group.gather(usable)
    agreed = next(precision for precision in DTYPES if precision in named)
    if agreed != usable:
        remark = f"Not every device of this run can compute in {usable}; all processes use {agreed}."
    return agreed, remark


def start_equal(group: ProcessGroup, step: int, run_folder: Path, parameters: Iterable[nn.Parameter]) -> None:
    """Check that all processes start at the same step, then broadcast the main process's trainable weights.

    Raises:
        UserError: the processes found different checkpoints.
    """
    if len(set(group.gather(step))) > 1:
        raise UserError(
            "The processes would start from different steps.",
            f"They see different checkpoints in {run_folder}.",
            "The workspace must be one folder that all machines share (docs/several-cards.md).",
        )
    group.broadcast_parameters(p for p in parameters if p.requires_grad)  # the base's fp8 weights cannot be broadcast
