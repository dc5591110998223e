"""Compares an export that was read back with the checkpoint: names, shapes, values, the net's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.errors import UserError
from engine.export import readers
from engine.export.formats import measured
from engine.export.source import Source
from engine.families.facts import FamilyFacts, of_control_net
from engine.machine.units import counted
from engine.nets.outputs import empty_net, largest_difference

# Relative to the strongest output: rounding to 11 (8) significant bits, accumulated over the layers.
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 8e-2}

Tensors = dict[str, torch.Tensor]


def check(source: Source, config: dict[str, Any] | None, tensors: Tensors, name: str = "the file") -> str:
    """Compare what was read back with what should have been written.

    Args:
        config: None if the format has none.
        tensors: under diffusers names; a Control-LoRA's are factors.
        name: of the file, for the error.

    Returns:
        A sentence that says what was checked.

    Raises:
        UserError: names the first difference.
    """
    if config is not None and config != source.config:
        raise failed("the config differs from that of the checkpoint")
    expected = set(source.tensors)
    for words, names in (
        ("lacks", expected - tensors.keys()),
        ("has unexpected tensors:", tensors.keys() - expected),
        ("lacks what ComfyUI looks for:", {of_control_net(source.config).control_files.trigger} - tensors.keys()),
    ):
        if names:
            raise failed(f"the file {words} {min(names)} ({len(names):,} of {counted(len(expected), 'tensor')})")
    for key, wanted in source.tensors.items():
        got = tensors[key]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise failed(f"{key} is {got.dtype} {tuple(got.shape)} instead of {wanted.dtype} {tuple(wanted.shape)}")
        if not got.float().isfinite().all() or not torch.equal(got.float(), wanted.float()):
            raise failed(f"{key} has different values than in the checkpoint")
    whole = source.whole(tensors, name)
    lacking = empty_net(source.config).state_dict().keys() ^ whole.keys()
    if lacking:
        raise failed(f"the net and the file disagree about {min(lacking)} ({counted(len(lacking), 'tensor')})")
    read = f"Read back: {counted(len(tensors), 'tensor')}, all finite and"
    difference = largest_difference(source.config, source.original, whole)
    if source.base is not None:
        if difference != difference:
            raise failed("the net's outputs are not finite")
        if source.trained_as_lora:
            _demand_same_outputs(source, difference)
            return (
                f"{read} as they were trained, in {source.precision}; with "
                f"the base its outputs are those of the checkpoint (largest difference {difference:.2%})."
            )
        return (
            f"{read} equal to what was written in {source.precision}. At "
            f"this rank {source.error:.1%} of what was learned is lost; with the base, its outputs differ from the "
            f"checkpoint's by at most {difference:.1%} of the largest output."
            + (
                ""
                if any(key.endswith(".up") for key in tensors)
                else " A net this small does not get smaller at this rank."
            )
        )
    if measured(source.precision):
        return (
            f"{read} equal to the checkpoint rounded to {source.precision}; its outputs differ from the "
            f"checkpoint's by at most {difference:.1%} of the largest output."
        )
    _demand_same_outputs(source, difference)
    return (
        f"{read} equal to the checkpoint in {source.precision}; "
        f"its outputs are those of the checkpoint (largest difference {difference:.2%})."
    )


def _demand_same_outputs(source: Source, difference: float) -> None:
    if not difference <= TOLERANCE[source.coarsest]:
        raise failed(f"its outputs differ from the checkpoint's (by {difference:.2%} of the largest output)")


def check_readers(path: Path, source: Source, stem: str, family: FamilyFacts) -> str:
    """Check how ComfyUI and AUTOMATIC1111 read the file. Returns a sentence, or "" for a folder: they read none.

    Raises:
        UserError: one of them would misread it.
    """
    if path.is_dir():
        return ""
    net = {key: tuple(weight.shape) for key, weight in empty_net(source.config).state_dict().items()}
    try:
        kind = readers.check(readers.raw_shapes(path), net, source.config, stem, family)
    except readers.Misread as error:
        raise failed(str(error)) from error
    if measured(source.precision):
        return f"ComfyUI recognizes it as {kind}; other programs are not known to read {source.precision}."
    *others, last = family.control_files.programs
    if not others:
        return f"{last} recognizes it as {kind}."
    return f"{', '.join(others)} and {last} recognize it as {kind}."


def failed(why: str) -> UserError:
    """The error for any difference."""
    return UserError(
        "The export failed its check and was not kept.",
        f"{why[0].upper()}{why[1:]}.",
        "Export again; if it fails again, check the disk and send the report to the project.",
    )
