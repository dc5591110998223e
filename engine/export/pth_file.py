"""The oldest form: a .pth file of nothing but tensors, named as in the original code behind ``control_model.``."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.export.source import Source
from engine.nets.ldm_keys import PREFIX, from_ldm, to_ldm


def write(path: Path, source: Source) -> None:
    """Write the file ``path``. It has no header: what the net is, only its file name can say.

    Raises:
        UserError: the net has parts that these names do not cover.
    """
    with path.open("wb") as file:  # a file, not its name, which torch would write into the archive
        torch.save(to_ldm(source.tensors, source.config, PREFIX), file)


def read(path: Path) -> tuple[None, dict[str, torch.Tensor]]:
    """No config, and the weights under their diffusers names again. Runs no code from the file."""
    return None, from_ldm(torch.load(path, map_location="cpu", weights_only=True))
