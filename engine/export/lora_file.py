"""A LoRA file of a run's checkpoint, with the names and the header that other programs read, and its model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.disk.durable import atomic_write_text
from engine.disk.in_use import clear, remove
from engine.errors import UserError
from engine.export import model_card
from engine.export.formats import ExportFormat, ExportResult
from engine.export.naming import export_stem
from engine.export.source import complete_checkpoint, merged_words, public_name
from engine.export.story import story_of
from engine.export.writing import (
    CARD_ENDING,
    TEMPORARY,
    demand_free_name,
    demand_space,
    give_names,
    give_ordinary_permissions,
    write_or_explain,
)
from engine.families.family_facts import FamilyFacts
from engine.families.lora_files import lora_changes, open_adapter
from engine.families.parts import file_tensors
from engine.families.registry import Family, by_name
from engine.machine.precision import DTYPES
from engine.runs.checkpoints import AVERAGED_LORA, LORA, Checkpoint, require_intact
from engine.version import VERSION


def export_lora(
    folder: Path,
    way: ExportFormat,
    out_folder: Path,
    name: str,
    precision: str,
    weights: str | None,
    overwrite: bool,
    stage: Callable[[int, str], None],
    base: str,
) -> ExportResult:
    """Write the LoRA of a checkpoint and check it before it gets its name. See ``engine.export.out.export``.

    Args:
        stage: see ``writing.stages``.

    Raises:
        UserError: the checkpoint is incomplete, the name is taken, the disk is full, or the check failed. Nothing is
            left behind. Cancelled: the token is cancelled. Nothing is left behind.
    """
    if way.name != "single_file":
        raise UserError(
            f"A LoRA cannot be exported as “{way.title}”.",
            "A LoRA has only one file format, which ComfyUI, AUTOMATIC1111, Forge and diffusers read.",
            "Choose “One file (.safetensors)”, or on the command line leave out --format.",
        )
    stage(0, "Reading the checkpoint")
    checkpoint = complete_checkpoint(folder)
    family = by_name(str(checkpoint.about.get("family")))
    source = _source(checkpoint, weights, precision)
    stem = export_stem(name or f"lora_{folder.name}", family.facts)
    target = Path(out_folder) / f"{stem}.safetensors"
    card = target.with_name(f"{stem}{CARD_ENDING}")
    demand_free_name(target, way, overwrite)
    model_card.require_ours(card)
    demand_space(target, sum(tensor.nbytes for tensor in source.values()))
    facts = _facts(checkpoint, family.facts, stem, precision)
    temporary, temporary_card = (path.with_name(f"{TEMPORARY}{path.name}") for path in (target, card))
    remove(temporary)
    remove(temporary_card)
    try:
        stage(1, "Writing")
        write_or_explain(lambda: save_file(source, temporary, facts), target)
        give_ordinary_permissions(temporary)
        stage(2, "Checking")
        checked = _check(temporary, source, family, base, target.name)
        stage(4, "Writing the model card")
        temporary_card.mkdir()
        text = _card(target.name, facts, checkpoint, family.facts)
        write_or_explain(lambda: atomic_write_text(temporary_card / model_card.README, text), target)
        stage(5, "Done")
        demand_free_name(target, way, overwrite)
        give_names(temporary, target, temporary_card, card)
    finally:
        clear(temporary)
        clear(temporary_card)
    return ExportResult(target, target.stat().st_size, checked, card)


def _source(checkpoint: Checkpoint, weights: str | None, precision: str) -> dict[str, torch.Tensor]:
    """The tensors in the file's precision; each alpha stays fp32.

    Raises:
        UserError: there are no such weights, or they are not finite.
    """
    weights = weights or ("ema" if checkpoint.has_ema else "plain")
    file = AVERAGED_LORA if weights == "ema" else LORA
    if not (checkpoint.folder / file).is_file():
        raise UserError(
            f"The checkpoint {checkpoint.folder.name} has no averaged weights.",
            "EMA was switched off in this run.",
            "Export the plain weights.",
        )
    require_intact(checkpoint.folder, file)
    found = load_file(checkpoint.folder / file)
    tensors = {n: t if n.endswith(".alpha") else t.to(DTYPES[precision]).contiguous() for n, t in found.items()}
    wrong = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if wrong is not None:
        raise UserError(
            f"The checkpoint {checkpoint.folder.name} cannot be exported.",
            f"{wrong} is NaN or infinite in {precision}.",
            "Choose an earlier checkpoint, or another precision.",
        )
    return tensors


def _facts(checkpoint: Checkpoint, family: FamilyFacts, stem: str, precision: str) -> dict[str, str]:
    """Entries of the file's header."""
    about = checkpoint.about
    found = family.lora_metadata(int((about.get("lora") or {}).get("rank", 0)), story_of(checkpoint.folder).resolution)
    found |= {
        "ss_output_name": stem,
        "ss_steps": str(checkpoint.step),
        "modelspec.title": stem,
        "made_with": f"ControlNet Studio {about.get('app', VERSION)}",
        "base": public_name(str(about.get("base", ""))),
        "images_seen": str(checkpoint.images_seen),
        "precision": precision,
    }
    merged = "; ".join(merged_words(one) for one in about.get("ingredients", ()))
    return found | ({"merged_with": merged} if merged else {})


def _check(path: Path, source: Mapping[str, torch.Tensor], family: Family, base: str, name: str) -> str:
    """Read the file back and compare it; and look up each of its layers in the base, where that is on this disk."""
    read = open_adapter(path)
    if read.tensors.keys() != source.keys() or any(
        not torch.equal(read.tensors[key], tensor) for key, tensor in source.items()
    ):
        raise UserError(
            f"{name} was not exported.", "What was read back differs from what was written.", "Check the disk."
        )
    checked = "Read back: all tensors are equal."
    tensors = file_tensors(base, family.facts.denoiser, ("",)) if base else None
    if tensors is None:
        return checked
    lora_changes(read, {family.facts.denoiser: tensors.shapes()}, family.facts)
    return f"{checked} Every layer fits the base."


def _card(file: str, facts: Mapping[str, str], checkpoint: Checkpoint, family: FamilyFacts) -> str:
    """The model card."""
    story = story_of(checkpoint.folder)
    rows: list[tuple[str, Any]] = [
        ("trained on", facts["base"]),
        ("merged into the base before training", facts.get("merged_with", "")),
        ("family", family.title),
        ("rank (dim), alpha", facts["ss_network_dim"]),
        ("steps", checkpoint.step),
        ("images seen", checkpoint.images_seen),
        ("images in the dataset", story.training_pictures or ""),
        ("resolution, px", story.resolution or ""),
        ("precision", facts["precision"]),
    ]
    pipeline = family.pipeline.replace("ControlNet", "")
    return "\n".join(
        [
            "---",
            "library_name: diffusers",
            f"tags: [lora, {family.card_tag}]",
            f"{model_card.MARK} {VERSION}",
            "---",
            "",
            f"# LoRA: {Path(file).stem}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {words} | {value} |" for words, value in rows if value != ""),
            "",
            f"**ComfyUI, AUTOMATIC1111, Forge**: put `{file}` into `models/loras` (ComfyUI) or `models/Lora`. Weight 1 "
            "is the strength it was trained at.",
            "",
            "**diffusers**:",
            "",
            "```python",
            f"from diffusers import {pipeline}",
            "",
            f'pipeline = {pipeline}.from_pretrained("{facts["base"]}")',
            f'pipeline.load_lora_weights("{file}")',
            "```",
            "",
        ]
    )
