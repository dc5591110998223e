"""Writes a small file of a checkpoint that is added to a base (a LoRA, a new word), with its model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.export import model_card
from engine.export.checkpoint_details import CheckpointDetails, read_details
from engine.export.formats import ExportFormat, ExportResult
from engine.export.sharing import MARK, README, section
from engine.export.source import merged_words, public_name
from engine.export.writing import (
    CARD_ENDING,
    demand_free_name,
    demand_space,
    give_names,
    give_ordinary_permissions,
    temporary_names,
    write_or_explain,
)
from engine.families.family_facts import FamilyFacts
from engine.families.lora_files import open_adapter
from engine.machine.precision import DTYPES
from engine.runs.checkpoints import Checkpoint, require_intact
from engine.version import VERSION


def demand_single_file(way: ExportFormat, what: str) -> None:
    """Raise UserError if it is to be exported in another format than one file. ``what``: "A LoRA"."""
    if way.name != "single_file":
        raise UserError(
            f"{what} cannot be exported as “{way.title}”.",
            f"{what} has only one file format, which ComfyUI, AUTOMATIC1111, Forge and diffusers read.",
            "Choose “One file (.safetensors)”, or on the command line leave out --format.",
        )


def trained_tensors(
    checkpoint: Checkpoint, plain: Path, averaged: Path, weights: str | None, precision: str
) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint's file in the export's precision; each alpha stays fp32.

    Args:
        plain, averaged: the file with the weights of the last step, and that of their average.
        weights: "plain", "ema", or None: the average where there is one.

    Raises:
        UserError: there are no such weights, or they are not finite.
    """
    file = averaged if (weights or ("ema" if checkpoint.has_ema else "plain")) == "ema" else plain
    if not file.is_file():
        raise UserError(
            f"The checkpoint {checkpoint.folder.name} has no averaged weights.",
            "EMA was switched off in this run.",
            "Export the plain weights.",
        )
    require_intact(checkpoint.folder, file.relative_to(checkpoint.folder).as_posix())
    found = load_file(file)
    tensors = {n: t if n.endswith(".alpha") else t.to(DTYPES[precision]).contiguous() for n, t in found.items()}
    wrong = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if wrong is not None:
        raise UserError(
            f"The checkpoint {checkpoint.folder.name} cannot be exported.",
            f"{wrong} is NaN or infinite in {precision}.",
            "Choose an earlier checkpoint, or another precision.",
        )
    return tensors


def header_of(checkpoint: Checkpoint, stem: str, precision: str) -> dict[str, str]:
    """Entries of a file's header that say where it comes from."""
    about = checkpoint.about
    found = {
        "modelspec.title": stem,
        "made_with": f"ControlNet Studio {about.get('app', VERSION)}",
        "base": public_name(str(about.get("base", ""))),
        "images_seen": str(checkpoint.images_seen),
        "precision": precision,
    }
    merged = "; ".join(merged_words(one) for one in about.get("ingredients", ()))
    return found | ({"merged_with": merged} if merged else {})


def _measured(details: CheckpointDetails) -> list[tuple[str, str]]:
    """What the last loss check has measured, for the card."""
    check = details.taught
    if check is None or not check.step:
        return []
    return [
        (
            f"gain at step {check.step:,}: loss on held-out images, below the untrained base's",
            f"{check.gain:z.1%} ± {check.gain_error:.1%}",
        ),
        ("drift: change of predictions for other captions", f"{check.drift:.1%} ± {check.drift_error:.1%}"),
    ]


def card_text(
    title: str,
    tag: str,
    size: tuple[str, Any],
    usage: Sequence[str],
    header: Mapping[str, str],
    checkpoint: Checkpoint,
    family: FamilyFacts,
) -> str:
    """A model card.

    Args:
        tag: that model hubs know it by.
        size: a row of the table, such as the rank.
        usage: lines about how other programs use the file.
    """
    details = read_details(checkpoint.folder)
    rows: list[tuple[str, Any]] = [
        ("trained on", header["base"]),
        ("merged into the base before training", header.get("merged_with", "")),
        ("family", family.title),
        size,
        ("steps", checkpoint.step),
        ("images seen", checkpoint.images_seen),
        ("images in the dataset", details.training_pictures or ""),
        ("resolution, px", details.resolution or ""),
        ("precision", header["precision"]),
        *_measured(details),
    ]
    return "\n".join(
        [
            "---",
            "library_name: diffusers",
            f"tags: [{tag}, {family.card_tag}]",
            f"{MARK} {VERSION}",
            "---",
            "",
            f"# {title}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {words} | {value} |" for words, value in rows if value != ""),
            "",
            *section(details.sharing, details.checkpoint),
            *usage,
            "",
        ]
    )


def write_adapter(
    target: Path,
    way: ExportFormat,
    tensors: Mapping[str, torch.Tensor],
    header: Mapping[str, str],
    check: Callable[[Path], str],
    card_text: str,
    overwrite: bool,
    stage: Callable[[int, str], None],
) -> ExportResult:
    """Write the file under a temporary name, read it back, and give it its name together with its card.

    Args:
        check: compares the file at a path with the base, after it was read back; returns a sentence.
        stage: see ``writing.stages``.

    Raises:
        UserError: the name is taken, the disk is full, or the check failed. Cancelled. Nothing is left behind.
    """
    card = target.with_name(f"{target.stem}{CARD_ENDING}")
    demand_free_name(target, way, overwrite)
    model_card.require_ours(card)
    demand_space(target, sum(tensor.nbytes for tensor in tensors.values()))
    with temporary_names(target, card) as (temporary, temporary_card):
        stage(1, "Writing")
        write_or_explain(lambda: save_file(dict(tensors), temporary, dict(header)), target)
        give_ordinary_permissions(temporary)
        stage(2, "Checking")
        _read_back(temporary, tensors, target.name)
        checked = f"Read back: all tensors are equal. {check(temporary)}".strip()
        stage(4, "Writing the model card")
        temporary_card.mkdir()
        write_or_explain(lambda: atomic_write_text(temporary_card / README, card_text), target)
        stage(5, "Done")
        demand_free_name(target, way, overwrite)
        give_names(temporary, target, temporary_card, card)
    return ExportResult(target, target.stat().st_size, checked, card)


def _read_back(path: Path, tensors: Mapping[str, torch.Tensor], name: str) -> None:
    read = open_adapter(path).tensors
    if read.keys() != tensors.keys() or any(not torch.equal(read[key], tensor) for key, tensor in tensors.items()):
        raise UserError(
            f"{name} was not exported.", "What was read back differs from what was written.", "Check the disk."
        )
