"""Exports a whole base: that of a run's checkpoint, or one merged with LoRA and embedding files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.bases.merging import folder_or_file, ready_base
from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.export import model_card
from engine.export.base_check import compare, is_known, same_as_base
from engine.export.base_files import (
    BaseSource,
    TrainedParts,
    read_base,
    read_file,
    read_folder,
    write_configs,
    write_file,
    write_folder,
)
from engine.export.checkpoint_details import read_details
from engine.export.extracted_lora import export_as_lora
from engine.export.formats import BASE_FORMATS, TRAINED_BASE_FORMATS, ExportResult, get
from engine.export.naming import export_stem
from engine.export.sharing import MARK, README, section
from engine.export.source import complete_checkpoint, merged_words, public_name
from engine.export.trained_parts import trained_parts
from engine.export.writing import (
    CARD_ENDING,
    demand_free_name,
    demand_space,
    give_names,
    give_ordinary_permissions,
    stages,
    temporary_names,
    write_or_explain,
)
from engine.families.registry import Family, by_name, detect
from engine.jobs.control import CancelToken, OnProgress
from engine.version import VERSION
from engine.workspace.paths import Workspace

Stage = Callable[[int, str], None]


@dataclass(frozen=True)
class Wanted:
    """A base that is to be exported."""

    family: Family
    base: str
    """Located: whose parts are taken."""
    facts: Mapping[str, str]
    """For the header and the card."""
    trained: TrainedParts = field(default_factory=dict)
    """The tensors of the parts that a run has trained; the others are the base's own."""
    schedule: Mapping[str, Any] = field(default_factory=dict)
    """Entries of the scheduler's config that a run has recorded."""
    training_data: Sequence[str] = ()
    """Lines of the card about the training data; none for a base that no run has trained."""


def export_base(
    folder: Path,
    format: str,
    out_folder: Path,
    name: str,
    precision: str,
    weights: str | None,
    overwrite: bool,
    stage: Stage,
    token: CancelToken | None,
    base: str,
    rank: int,
) -> ExportResult:
    """Write the base that a checkpoint's run has trained, or its difference to the base it began as.

    See ``engine.export.out.export``.

    Raises:
        UserError: the checkpoint is incomplete, the base is gone, the name is taken, the disk is full, or the check
            failed. Nothing is left behind. Cancelled: the token is cancelled. Nothing is left behind.
    """
    way = get(format, TRAINED_BASE_FORMATS)
    stage(0, "Reading the checkpoint")
    checkpoint = complete_checkpoint(folder)
    about = checkpoint.about
    if not base:
        raise UserError(
            "The base cannot be exported.",
            f"VAE and text encoders come from {about.get('base', 'its base')}, which was not found on this computer.",
            "Put that base back in the models folder, then export again.",
        )
    facts = {
        "base": public_name(str(about.get("base", ""))),
        "merged_with": "; ".join(merged_words(one) for one in about.get("ingredients", ())),
        "steps": str(checkpoint.step),
        "images_seen": str(checkpoint.images_seen),
    }
    family = by_name(str(about.get("family")))
    trained = trained_parts(checkpoint, weights or ("ema" if checkpoint.has_ema else "plain"), family, base, token)
    if way.ranks:
        target = Path(out_folder) / f"{export_stem(name or f'lora_{folder.name}', family.facts)}{way.ending}"
        return export_as_lora(checkpoint, way, target, precision, overwrite, stage, token, base, family, trained, rank)
    details = read_details(folder)
    data = section(details.sharing, details.checkpoint)
    wanted = Wanted(family, base, facts, trained, checkpoint.noise_schedule, data)
    return write_base(wanted, format, out_folder, name or f"base_{folder.name}", precision, overwrite, stage, token)


def export_merged(
    workspace: Workspace,
    reference: str,
    format: str = "single_file",
    precision: str = "fp16",
    name: str = "",
    out_folder: Path | None = None,
    overwrite: bool = False,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> ExportResult:
    """Write a base with LoRA and embedding files in it, or one as it is.

    Args:
        reference: a base, or one with ingredients (``engine/workspace/base_reference.py``).
        out_folder: None: the workspace's folder of models, where it can be chosen as a base at once.

    Raises:
        as ``export_base``, and as ``ready_base``.
    """
    stage = stages(token, progress)
    base = ready_base(workspace, reference, token, progress or (lambda done, total, label: None))
    stage(0, "Reading the base")
    recipe = workspace.merged_base(reference)
    parts = (
        [recipe.base, *(f"{path.name} (weight {weight:g})" for path, weight in recipe.ingredients)] if recipe else []
    )
    words = " + ".join(map(public_name, parts)) or public_name(reference)
    wanted = Wanted(detect(base), base, {"base": words})
    stem = name or Path(base).stem
    return write_base(wanted, format, out_folder or workspace.models, stem, precision, overwrite, stage, token)


def write_base(
    wanted: Wanted,
    format: str,
    out_folder: Path,
    name: str,
    precision: str,
    overwrite: bool,
    stage: Stage,
    token: CancelToken | None = None,
) -> ExportResult:
    """Write, read back, compare, draw the same image, then rename. See ``export_base``."""
    way, family = get(format, BASE_FORMATS), wanted.family
    stem = export_stem(name, family.facts)
    target = Path(out_folder) / f"{stem}{way.ending}"
    card, configs = target.with_name(f"{stem}{CARD_ENDING}"), target.with_name(stem)
    demand_free_name(target, way, overwrite)
    if way.ending:
        model_card.require_ours(card)
    base = str(folder_or_file(wanted.base))
    source = read_base(family, base, wanted.trained, wanted.schedule, precision, _header(wanted, stem, precision))
    demand_space(target, source.bytes)
    with temporary_names(target, card, configs) as (temporary, temporary_card, beside):
        stage(1, "Writing")
        write = write_file if way.ending else write_folder
        write_or_explain(lambda: write(temporary, source), target)
        stage(2, "Checking")
        checked = compare(read_file if way.ending else read_folder, temporary, source)
        known = not way.ending or is_known(temporary, source)
        if not known:
            beside.mkdir()
            write_configs(beside, source)
            checked += (
                f" Its structure is not that of the published models: this app needs the folder {stem} beside it."
            )
        stage(3, "Drawing the same image with both")
        checked += " " + same_as_base(source, temporary, wanted.trained, token)
        stage(4, "Writing the model card")
        place = temporary_card if way.ending else temporary
        place.mkdir(exist_ok=True)
        text = _card(target.name, wanted, source, precision)
        write_or_explain(lambda: atomic_write_text(place / README, text), target)
        give_ordinary_permissions(temporary)
        stage(5, "Done")
        demand_free_name(target, way, overwrite)
        if not known:
            give_names(beside, configs, None, card)
        give_names(temporary, target, temporary_card if way.ending else None, card)
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    return ExportResult(target, sum(path.stat().st_size for path in files), checked, card if way.ending else target)


def _header(wanted: Wanted, stem: str, precision: str) -> dict[str, str]:
    """Entries of a file's header: those of the modelspec, and where it comes from."""
    version = wanted.family.facts.lora_version
    found = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": version[1] if version else "",
        "modelspec.title": stem,
        "made_with": f"ControlNet Studio {VERSION}",
        "precision": precision,
        **wanted.facts,
    }
    return {name: value for name, value in found.items() if value}


def _card(file: str, wanted: Wanted, source: BaseSource, precision: str) -> str:
    """The model card."""
    facts, family = wanted.facts, wanted.family.facts
    pipeline = family.pipeline.replace("ControlNet", "")
    rows = [
        ("made of", facts["base"]),
        ("merged into it before training", facts.get("merged_with", "")),
        ("family", family.title),
        ("trained parts", ", ".join(wanted.trained)),
        ("steps", facts.get("steps", "")),
        ("images seen", facts.get("images_seen", "")),
        ("prediction", str(source.schedule.get("prediction_type", ""))),
        ("precision", precision),
    ]
    one_file = file.endswith(".safetensors")
    load = "from_single_file" if one_file else "from_pretrained"
    where = "`models/checkpoints` (ComfyUI) or `models/Stable-diffusion` (AUTOMATIC1111, Forge)"
    return "\n".join(
        [
            "---",
            "library_name: diffusers",
            f"tags: [{family.card_tag}]",
            f"{MARK} {VERSION}",
            "---",
            "",
            f"# {Path(file).stem}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {words} | {value} |" for words, value in rows if value),
            "",
            *wanted.training_data,
            *([f"Put `{file}` into {where}.", ""] if one_file else []),
            "```python",
            f"from diffusers import {pipeline}",
            "",
            f'pipeline = {pipeline}.{load}("{file}")',
            "```",
            "",
        ]
    )
