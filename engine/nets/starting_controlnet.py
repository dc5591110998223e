"""The ControlNet that a run starts from, by its header or config alone: its blocks, and the modes of a union net."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.disk.tensor_file import read_metadata, tensor_shapes
from engine.errors import UserError
from engine.families.control_files import MODE, ControlFiles
from engine.families.facts import control_files
from engine.families.family_facts import FamilyFacts
from engine.families.sizes import Learned
from engine.nets.controlnet_files import CONFIG_KEY, check_fits, locate_controlnet, read_config
from engine.nets.union_mode import NOT_CHOSEN, why_not_mode
from engine.runs.checkpoints import list_checkpoints


def with_starting_net(learned: Learned, path: str, facts: FamilyFacts) -> Learned:
    """What is trained of a net that a run starts from: it keeps its own number of blocks.

    A file that cannot be read so changes nothing here; it is refused when the run starts.

    Args:
        path: of the net; "": the run starts from none.
        facts: of the base's family.
    """
    if not path or not facts.block_counts:
        return learned
    config = config_of(path, facts.control_files)
    if not config:
        return learned
    blocks, single = facts.control_files.blocks(config)
    return replace(learned, blocks=blocks, single_blocks=single)


def reads_latents(path: str, facts: FamilyFacts) -> bool:
    """Whether a run's ControlNet reads latents of the control image: of a family whose nets do, some read RGB.

    Args:
        path: of the net that the run starts from; "": from none.
    """
    files = facts.control_files
    return facts.control_is_encoded and not (path and files.is_of_rgb(config_of(path, files)))


def why_not_start(path: str) -> str:
    """Why a run cannot start from this net, as far as names, sizes and headers of files show; "" if it can."""
    file = Path(path).expanduser()
    try:
        if file.is_dir() and not list(file.glob("*.bin")):
            locate_controlnet(file)
        elif file.suffix.lower() == ".safetensors":
            tensor_shapes(file)
        elif not file.exists():
            return f"The ControlNet to start from, {path}, was not found."
    except UserError as error:
        return f"The ControlNet to start from: {error.what} {error.why} {error.try_this}"
    except FileNotFoundError:
        return f"The ControlNet to start from, {path}, was not found."
    except OSError as error:
        return f"The ControlNet to start from, {path}, cannot be read: {error.strerror or error}."
    return ""


def why_not_of_base(path: str, denoiser: Mapping[str, Any], base: str, facts: FamilyFacts) -> str:
    """Why this net was made for another base, as its header or config shows, as a sentence; "" if none of them tells.

    Args:
        denoiser: the config of the base's denoiser.
        base: its name, and ``facts`` of its family.
    """
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            config: Mapping[str, Any] = read_config(locate_controlnet(file))
        else:
            kinds = [kind for kind in control_files() if kind.recognize(tensor_shapes(file))]
            if kinds and facts.control_files not in kinds:
                return f"{file.name} is a ControlNet for another kind of base than {facts.title}."
            config = config_of(path, facts.control_files)
        if config:
            check_fits(config, denoiser, file.name, base, facts)
    except UserError as error:
        return f"{error.what} {error.why}"
    except (OSError, ValueError):
        return ""  # refused when the run starts
    return ""


def why_not_in_mode(path: str, facts: FamilyFacts, mode: int) -> str:
    """Why a run cannot start from this net in this mode of a union net, as a sentence; "" if it can."""
    config = config_of(path, facts.control_files)
    chosen = int(config.get(MODE, mode)) if mode == NOT_CHOSEN else mode
    return why_not_mode(facts.control_files.modes(config), chosen)


def trained_config(run_folder: Path, start: str, files: ControlFiles) -> Mapping[str, Any]:
    """The config of the net that a run trains, as far as it can be read: of its newest checkpoint, or of its start."""
    saved = [checkpoint for checkpoint in list_checkpoints(run_folder) if checkpoint.resumable]
    return config_of(str(saved[-1].folder / "controlnet") if saved else start, files) if saved or start else {}


def config_of(path: str, files: ControlFiles) -> Mapping[str, Any]:
    """The entries of a net's config that its header or folder shows; empty: none of this kind can be read so."""
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            config = read_config(locate_controlnet(file))
            return config if files.config_mark in config else {}
        shapes = {name: tuple(shape) for name, shape in tensor_shapes(file).items()}
        return {**json.loads(read_metadata(file).get(CONFIG_KEY, "{}")), **files.config_from_shapes(shapes, file.name)}
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return {}
