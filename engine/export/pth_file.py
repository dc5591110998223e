"""The oldest format: a .pth file of tensors, with LDM names behind the prefix ``control_model.``."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.export.source import Source
from engine.families.ldm_keys import PREFIX, from_ldm, to_ldm


def write(path: Path, source: Source) -> None:
    """Write the file ``path``. It has no header, so only its file name tells what the net is.

    Raises:
        UserError: the net has layers that have no LDM name.
    """
    with path.open("wb") as file:  # an open file: torch would write a path's name into the archive
        torch.save(to_ldm(source.tensors, source.config, PREFIX), file)


def read(path: Path) -> tuple[None, dict[str, torch.Tensor]]:
    """Read the weights, under diffusers names again; there is no config. Runs no code from the file."""
    return None, from_ldm(torch.load(path, map_location="cpu", weights_only=True))
