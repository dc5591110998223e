"""The blocks of a ControlNet that a run starts from, by its header or config alone: for the estimate of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.disk.tensor_file import tensor_shapes
from engine.errors import UserError
from engine.families.family_facts import FamilyFacts
from engine.families.sizes import Learned
from engine.nets.controlnet_files import locate_controlnet, read_config


def with_start(learned: Learned, path: str, facts: FamilyFacts) -> Learned:
    """What is trained of a net that a run starts from: it keeps its own number of blocks.

    A file that cannot be read so changes nothing here; it is refused when the run starts.

    Args:
        path: of the net; "": the run starts from none.
        facts: of the base's family.
    """
    if not path or not facts.block_counts:
        return learned
    try:
        blocks, single = facts.control_files.blocks(_config(Path(path).expanduser(), facts))
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return learned
    return replace(learned, blocks=blocks, single_blocks=single)


def _config(path: Path, facts: FamilyFacts) -> Mapping[str, Any]:
    if path.is_dir():
        return read_config(locate_controlnet(path))
    shapes = {name: tuple(shape) for name, shape in tensor_shapes(path).items()}
    return facts.control_files.config_from_shapes(shapes, path.name)
