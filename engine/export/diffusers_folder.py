"""A folder that ``ControlNetModel.from_pretrained`` opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.export.source import Source
from engine.nets.controlnet_files import CONFIG, WEIGHTS


def write(path: Path, source: Source) -> None:
    """Write the folder ``path``."""
    path.mkdir()
    text = json.dumps(source.config, indent=2, sort_keys=True)
    (path / CONFIG).write_text(text + "\n", encoding="utf-8")
    save_file(source.tensors, path / WEIGHTS, metadata=source.metadata)


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read config and weights."""
    return json.loads((path / CONFIG).read_text(encoding="utf-8")), load_file(path / WEIGHTS)
