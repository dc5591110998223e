"""The source of an export: weights of one checkpoint in the chosen precision, and the metadata for the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from engine.errors import UserError
from engine.export.checkpoint_details import UNION_MODE, UNKNOWN, CheckpointDetails
from engine.families.control_files import MODE
from engine.machine.precision import DTYPES
from engine.nets import low_rank_math
from engine.nets.controlnet_files import WEIGHTS, locate_controlnet, read_config
from engine.runs.checkpoints import (
    AVERAGED_FACTORS,
    FACTORS,
    Checkpoint,
    inspect_checkpoint,
    require_intact,
)
from engine.runs.choice import require_controlnet
from engine.version import VERSION

EXPORT_DTYPES = {**DTYPES, "fp8": torch.float8_e4m3fn}
"""From the finest to the coarsest."""


@dataclass(frozen=True)
class Source:
    """One net, ready to be written."""

    config: dict[str, Any]
    """The net's config.json without this computer's paths."""
    original: dict[str, torch.Tensor]
    """The checkpoint's own weights (fp32)."""
    tensors: dict[str, torch.Tensor]
    """What is written, in the export's precision: whole weights, or low-rank factors."""
    precision: str
    metadata: dict[str, str]
    """For the file's header. Holds no private path and no caption."""
    base: Mapping[str, torch.Tensor] | None = None
    """The base's weights that the net copies (fp32), if ``tensors`` are low-rank factors; else None."""
    error: float = 0.0
    """Share of the difference to the base that the factors lost, 0 to 1."""
    trained_as_lora: bool = False
    """``tensors`` are the factors that the run trained, not an approximation."""
    base_precision: str = "fp32"
    """Precision of the base while such factors were trained."""

    def whole(self, tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
        """The whole weights that a reader ends up with. ``name``: of the file, for the error."""
        return tensors if self.base is None else low_rank_math.restore(tensors, self.base, name)

    @property
    def coarsest(self) -> str:
        """The coarsest precision on the way from the checkpoint's outputs to the file's."""
        return max(self.precision, self.base_precision, key=list(EXPORT_DTYPES).index)

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def whole_checkpoint(folder: Path) -> Checkpoint:
    """Read the folder of a ControlNet's checkpoint. Raises UserError if it is none, or incomplete."""
    found = complete_checkpoint(folder)
    require_controlnet(found)
    return found


def complete_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's folder. Raises UserError if it is no checkpoint or incomplete."""
    found = inspect_checkpoint(folder)
    if isinstance(found, Checkpoint):
        return found
    raise UserError(
        f"The checkpoint {folder.name} cannot be exported.",
        f"It is missing or incomplete: {found}.",
        "Choose another checkpoint of the run.",
    )


def read_source(checkpoint: Checkpoint, precision: str, weights: str, details: CheckpointDetails = UNKNOWN) -> Source:
    """Read and convert the weights of a whole checkpoint.

    Args:
        weights: "plain" or "ema".

    Raises:
        UserError: there are no such weights, or they are not finite in this precision.
    """
    if weights == "ema" and not checkpoint.has_ema:
        raise UserError(
            f"The checkpoint {checkpoint.folder.name} has no averaged weights.",
            "EMA was switched off in this run.",
            "Export the plain weights.",
        )
    folder = locate_controlnet(checkpoint.folder / ("controlnet_ema" if weights == "ema" else "controlnet"))
    require_intact(checkpoint.folder, f"{folder.name}/")
    try:
        original = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"The checkpoint {checkpoint.folder.name} cannot be read.",
            f"{WEIGHTS}: {error}.",
            "Choose another checkpoint of the run.",
        ) from error
    dtype = EXPORT_DTYPES[precision]
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in original.items()}
    for name, tensor in tensors.items():
        # A weight that is too large becomes infinite, except in fp8, which has no infinity and clips it.
        if not tensor.float().isfinite().all() or original[name].abs().max() > torch.finfo(dtype).max:
            raise UserError(*_not_finite(checkpoint.folder.name, name, original[name], precision))
    config = {name: value for name, value in read_config(folder).items() if name != "_name_or_path"}
    facts = metadata(checkpoint, precision, weights, details)
    facts |= {UNION_MODE: str(config[MODE])} if MODE in config else {}
    return Source(config, original, tensors, precision, facts)


def read_factors(checkpoint: Checkpoint, weights: str) -> dict[str, torch.Tensor]:
    """Read the factors that a Control-LoRA run trained, fp32 under diffusers names.

    Raises:
        UserError: the file cannot be read.
    """
    path = checkpoint.folder / (AVERAGED_FACTORS if weights == "ema" else FACTORS)
    require_intact(checkpoint.folder, path.relative_to(checkpoint.folder).as_posix())
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"The checkpoint {checkpoint.folder.name} cannot be read.",
            f"{path.name}: {error}.",
            "Choose another checkpoint of the run.",
        ) from error


def metadata(
    checkpoint: Checkpoint, precision: str, weights: str, details: CheckpointDetails = UNKNOWN
) -> dict[str, str]:
    """Entries for the header. Programs that do not know them ignore them."""
    about = checkpoint.about
    condition = about.get("condition") or {}
    facts = {
        "format": "pt",  # what diffusers looks for
        "made_with": f"ControlNet Studio {about.get('app', VERSION)}",
        "condition_type": str(condition.get("type", "")),
        "condition_parameters": json.dumps(condition.get("parameters", {}), sort_keys=True),
        "base": public_name(str(about.get("base", ""))),
        "merged_with": "; ".join(merged_words(one) for one in about.get("ingredients", ())),
        "base_storage": stored_words(about.get("base_storage") or {}),
        "family": str(about.get("family", "")),
        "steps": str(checkpoint.step),
        "images_seen": str(checkpoint.images_seen),
        "precision": precision,
        "weights": weights,
        "dataset_fingerprint": str(about.get("dataset_fingerprint", "")),
        "training_pictures": str(details.training_pictures or ""),
        "resolution": str(details.resolution or ""),
        "clip_skip": str(details.clip_skip) if details.clip_skip > 1 else "",
    }
    facts |= {f"score_{name}": f"{value:.4f}" for name, value in details.scores.items()}
    return {name: value for name, value in facts.items() if value}


def stored_words(stored: Mapping[str, str]) -> str:
    """How the base was quantized while the net was trained, for people; "" if it was not."""
    if not stored:
        return ""
    modulation = "" if stored["modulation"] == "base" else f", its modulation layers in {stored['modulation']}"
    return stored["kind"] + modulation.replace("in same", "in the run's precision")


def merged_words(ingredient: Mapping[str, Any]) -> str:
    """A LoRA or embedding file that the base was merged with, for people: name, weight, and hash to find it by."""
    return f"{ingredient['file']} (weight {ingredient['weight']:g}, SHA-256 {str(ingredient['sha256'])[:10]})"


def public_name(base: str) -> str:
    """A hub id or the name of a bundled base unchanged; only the last part of a path on this computer."""
    is_hub_id = base.count("/") == 1 and "\\" not in base and not base.startswith(("/", ".", "~"))
    if is_hub_id and not Path(base).exists():
        return base
    return PureWindowsPath(base).name  # splits at both slashes


def _not_finite(checkpoint: str, name: str, original: torch.Tensor, precision: str) -> tuple[str, str, str]:
    if original.isfinite().all():
        return (
            f"The checkpoint {checkpoint} cannot be exported in {precision}.",
            f"Some weights are too large for it (first in {name}).",
            "Export in bf16 or fp32.",
        )
    return (
        f"The checkpoint {checkpoint} cannot be exported.",
        f"Its weights contain NaN or infinity (first in {name}): training went wrong before it was saved.",
        "Choose an earlier checkpoint.",
    )
