"""One .safetensors file with LDM names (those of the original code)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.export import single_file
from engine.export.source import Source
from engine.families.ldm_keys import from_ldm, to_ldm


def write(path: Path, source: Source) -> None:
    """Write the file ``path``.

    Raises:
        UserError: the net has layers that have no LDM name.
    """
    single_file.save(path, to_ldm(source.tensors, source.config), source)


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read config and weights, under diffusers names again."""
    config, tensors = single_file.read_as_named(path)
    return config, from_ldm(tensors)
