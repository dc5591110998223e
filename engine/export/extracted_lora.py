"""The difference of a trained base to the base it began as, as a LoRA file of a chosen rank.

Each layer's difference is replaced by the nearest of that rank, its truncated SVD (Eckart and Young 1936). What that
and layers without a place in such files (norms, biases, embeddings) lose is told in the result and on the card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.bases.merged_tensors import text_tensors
from engine.errors import UserError
from engine.export.adapter_file import card_text, write_adapter
from engine.export.formats import DEFAULT_RANK, ExportFormat, ExportResult
from engine.export.lora_file import check_layers, lora_header, usage_lines
from engine.families.embedding_files import parts_by_folder
from engine.families.registry import Family
from engine.families.text_names import TEXT_PREFIXES, clip_name
from engine.jobs.control import CancelToken
from engine.machine.precision import DTYPES
from engine.nets.base_lora import ALPHA, DOWN, UP
from engine.nets.low_rank_math import factorize
from engine.runs.checkpoints import Checkpoint

Tensors = dict[str, torch.Tensor]


def export_as_lora(
    checkpoint: Checkpoint,
    way: ExportFormat,
    target: Path,
    precision: str,
    overwrite: bool,
    stage: Callable[[int, str], None],
    token: CancelToken | None,
    base: str,
    family: Family,
    trained: Mapping[str, Mapping[str, torch.Tensor]],
    rank: int,
) -> ExportResult:
    """Write what a run has changed of its base. See ``engine.export.out.export``.

    Args:
        trained: tensors of the parts that it has trained (``base_files.TrainedParts``).
        rank: 0: ``DEFAULT_RANK``.

    Raises:
        UserError: nothing has changed, the name is taken, the disk is full, or the check failed. Cancelled. Nothing is
            left behind.
    """
    rank = rank or DEFAULT_RANK
    stage(0, "Factorising")
    found, lost = lora_of_difference(family, base, trained, rank, token)
    if not found:
        raise UserError(
            f"The checkpoint {checkpoint.folder.name} has no LoRA.",
            "Its weights are those of the base.",
            "Choose a later checkpoint.",
        )
    tensors = {
        name: tensor if name.endswith(ALPHA) else tensor.to(DTYPES[precision]).contiguous()
        for name, tensor in found.items()
    }
    header = lora_header(checkpoint, family.facts, target.stem, precision, rank)
    kept = f"It keeps {100 * (1 - lost):.1f} % of what training has changed (rank {rank})."
    usage = [f"The difference of a trained base to {header['base']}. {kept}", ""]
    usage += usage_lines(target.name, header["base"], family.facts)
    size = ("rank (dim), alpha", str(rank))
    card = card_text(f"LoRA: {target.stem}", "lora", size, usage, header, checkpoint, family.facts)

    def check(path: Path) -> str:
        return f"{check_layers(path, family, base)} {kept}"

    return write_adapter(target, way, tensors, header, check, card, overwrite, stage)


def lora_of_difference(
    family: Family,
    base: str,
    trained: Mapping[str, Mapping[str, torch.Tensor]],
    rank: int,
    token: CancelToken | None = None,
) -> tuple[Tensors, float]:
    """The tensors of a LoRA file, fp32, and the share of the difference that it lacks, 0 to 1.

    The share is that of the Frobenius norm over all tensors.

    Args:
        base: located, on this disk.

    Raises:
        Cancelled: the token is cancelled.
    """
    found: Tensors = {}
    whole = left = 0.0
    for part, tensors in trained.items():
        own, names = _of_base(family, base, part)
        for name, tensor in tensors.items():
            if token is not None:
                token.raise_if_cancelled()
            difference = tensor.float() - own[name].float()
            size = float(difference.square().sum())
            whole, left = whole + size, left + size
            layer = names.get(name.removesuffix(".weight"))
            if layer is None or not name.endswith(".weight") or not size:
                continue
            matrix, shape = difference.flatten(1), difference.shape
            up, down = factorize(matrix, min(rank, *matrix.shape))
            left += float((matrix - up @ down).square().sum()) - size
            found[layer + UP] = up.reshape(shape[0], -1, *[1] * (len(shape) - 2))
            found[layer + DOWN] = down.reshape(-1, *shape[1:])
            found[layer + ALPHA] = torch.tensor(float(down.shape[0]))
    return found, (max(0.0, left) / whole) ** 0.5 if whole else 0.0


def _of_base(family: Family, base: str, part: str) -> tuple[Mapping[str, torch.Tensor], dict[str, str]]:
    """A part's own tensors, and the names that LoRA files have for its layers."""
    net: Any
    if part == family.facts.denoiser:
        net = family.load_denoiser(base, torch.float32)
        return net.state_dict(), {name: family.layers.adapted_name(name) for name in _layers(net)}
    encoders = parts_by_folder(family, "text_encoder", family.load_text_encoder(base, torch.float32))
    net, prefix = encoders[part], TEXT_PREFIXES[part][-1 if len(encoders) > 1 else 0]
    inside = [clip_name(net, name) for name in _layers(net)]
    return text_tensors(net), {name: prefix + name.replace(".", "_") for name in inside}


def _layers(net: nn.Module) -> list[str]:
    return [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
