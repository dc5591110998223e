"""Checks of an exported base: the same tensors as diffusers reads them, and the same image as this app draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from engine.errors import UserError
from engine.export import same_image
from engine.export.base_files import BaseSource, TrainedParts
from engine.export.self_check import failed
from engine.families.registry import detect
from engine.jobs.control import CancelToken
from engine.machine.units import counted, format_bytes


def compare(read: Callable[[Path, BaseSource], Iterator[Any]], path: Path, source: BaseSource) -> str:
    """Compare each part that was read back, a file's by diffusers' converters. Raises UserError if one differs."""
    total = 0
    for part, found in read(path, source):
        wanted = source.parts[part]
        if differing := sorted(wanted.keys() ^ found.keys()):
            raise failed(f"{part}: {differing[0]} is in one of the two only")
        for name, tensor in wanted.items():
            if found[name].dtype != tensor.dtype or not torch.equal(found[name], tensor):
                raise failed(f"{name} of the {part} has different values than the base")
        total += len(wanted)
    return f"Read back as diffusers reads it: {counted(total, 'tensor')}, all equal to the base's."


def is_known(file: Path, source: BaseSource) -> bool:
    """Whether this app reads a file by its header alone as the base that it is."""
    try:
        family = detect(str(file))
        return family.noise_process(str(file)).schedule == _process(source).schedule
    except UserError:
        return False


def _process(source: BaseSource) -> Any:
    return source.family.noise_process(source.base).with_schedule(source.schedule)


def same_as_base(source: BaseSource, path: Path, trained: TrainedParts, token: CancelToken | None) -> str:
    """Draw with the trained base and with the export, as this app reads it. Returns a sentence.

    Args:
        trained: as ``read_base`` takes them.

    Raises:
        UserError: the images differ by more than the precision explains. Cancelled.
    """
    if source.family.facts.patch > 1:
        return "No images were compared: bases of this kind are drawn with a ControlNet only."
    needed = 2 * 4 * sum(tensor.numel() for part in source.parts.values() for tensor in part.values())
    needed += int(same_image.BESIDES)
    if needed > (free := psutil.virtual_memory().available):
        lacking = f"this needs {format_bytes(needed)} of memory, and {format_bytes(free)} are free"
        return f"No images were compared: {lacking}."
    denoiser = source.family.facts.denoiser
    of_text = {part: tensors for part, tensors in trained.items() if part != denoiser}
    first = same_image.Comparison(source.family, source.base, source.recorded, of_text)
    if denoiser in trained:
        first.denoiser.load_state_dict(trained[denoiser])
    image = first.draw(token=token).astype(int)
    del first
    try:
        second = same_image.Comparison(source.family, str(path))
    except UserError as error:
        raise failed(f"this app cannot read it: {error.why}") from error
    difference = float(np.abs(image - second.draw(token=token)).mean())
    if difference > same_image.TOLERANCE[source.facts["precision"]]:
        raise failed(f"it draws another image than the base (difference {difference:.1f} of 255 grey levels)")
    return f"The same seed draws the same image from both (mean difference {difference:.2f} of 255)."
