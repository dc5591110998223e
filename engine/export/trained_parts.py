"""The parts of a base that a checkpoint's run has trained, as tensors."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from engine.errors import UserError
from engine.families.registry import Family
from engine.jobs.control import CancelToken
from engine.machine.device import torch_device
from engine.nets.singular_values import with_shifts
from engine.runs.checkpoints import Checkpoint, require_intact
from engine.tuning.svdiff import AVERAGED_SHIFTS, SHIFTS
from engine.tuning.whole_base import AVERAGED_DENOISER, AVERAGED_TEXT_FOLDER, DENOISER, TEXT_FOLDER


def trained_parts(
    checkpoint: Checkpoint, weights: str, family: Family, base: str, token: CancelToken | None
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of the parts of a base that a run has trained, by the part's folder and diffusers name, fp32.

    Args:
        weights: "plain" or "ema".
        base: located.

    Raises:
        UserError: there is no average, or a file is damaged. Cancelled.
    """
    part, folder, average = family.facts.denoiser, checkpoint.folder, weights == "ema"
    if (folder / SHIFTS).is_file():
        shifts = _read(checkpoint, AVERAGED_SHIFTS if average else SHIFTS)
        own = family.load_denoiser(base, torch.float32).state_dict()
        dtype = getattr(torch, checkpoint.about["svdiff"]["dtype"])

        def progress(done: int, total: int) -> None:
            if token is not None:
                token.raise_if_cancelled()

        return {part: with_shifts(own, shifts, dtype, torch_device(), progress)}
    found = {part: _read(checkpoint, AVERAGED_DENOISER if average else DENOISER)}
    of_text = AVERAGED_TEXT_FOLDER if average else TEXT_FOLDER
    for path in sorted((folder / of_text).glob("*.safetensors")):
        found[path.stem] = _read(checkpoint, f"{of_text}/{path.name}")
    return found


def _read(checkpoint: Checkpoint, name: str) -> dict[str, torch.Tensor]:
    """A file of trained weights. Raises UserError if there is no average, or it is damaged."""
    if not (checkpoint.folder / name).is_file():
        raise UserError(
            f"The checkpoint {checkpoint.folder.name} has no averaged weights.",
            "EMA was switched off in this run.",
            "Export the plain weights.",
        )
    require_intact(checkpoint.folder, name)
    return load_file(checkpoint.folder / name)
