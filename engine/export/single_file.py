"""One .safetensors file with diffusers names, which ComfyUI, AUTOMATIC1111 and Forge read directly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engine.export.source import Source
from engine.families.facts import of_control_net
from engine.nets.controlnet_files import CONFIG_KEY


def write(path: Path, source: Source) -> None:
    """Write the file ``path``."""
    files = of_control_net(source.config).control_files
    save(path, files.names_in_file(source.tensors, source.config), source)


def save(path: Path, tensors: dict[str, torch.Tensor], source: Source) -> None:
    """Write ``tensors`` under the names they have, with metadata and config in the header."""
    header = source.metadata | {CONFIG_KEY: json.dumps(source.config, sort_keys=True)}
    save_file(tensors, path, metadata=header)


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read config and weights, under diffusers names."""
    config, tensors = read_as_named(path)
    files = of_control_net(config).control_files
    return config, files.plain_names("single_file", tensors) if files.is_of_rgb(config) else tensors


def read_as_named(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read config and weights, under the names that they have in the file."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return json.loads(file.metadata()[CONFIG_KEY]), tensors
