"""Tells two bases apart by their denoiser's weights, whatever their names and places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from engine.families.base import Family
from engine.families.parts import file_tensors


def denoiser_fingerprint(family: Family, located: str) -> str:
    """SHA-256 over the first row of each of the denoiser's tensors, with its name and shape.

    Training and merging change every row of a matrix, so the first ones tell bases apart, and a base of some GB is
    read in a moment. Values are rounded to fp16 first: a base in fp32 and its copy in fp16 are the same.

    Args:
        located: where the base is: a folder, a file, or a name on the hub.

    Raises:
        UserError: the base cannot be read.
    """
    tensors = file_tensors(located, family.facts.denoiser, ("",))
    if tensors is not None:
        return _hash(tensors.first_rows())
    loaded = family.load_denoiser(located, torch.float32).state_dict()
    return _hash((name, tuple(tensor.shape), tensor[:1]) for name, tensor in loaded.items())


def _hash(rows: Iterable[tuple[str, tuple[int, ...], torch.Tensor]]) -> str:
    state = hashlib.sha256()
    for name, shape, row in sorted(rows, key=lambda one: one[0]):
        state.update(f"{name} {shape}".encode())
        state.update(row.half().contiguous().numpy().tobytes())
    return state.hexdigest()
