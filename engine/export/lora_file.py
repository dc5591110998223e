"""A LoRA file of a run's checkpoint, with the names and the header that other programs read, and its model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.bases.merged_tensors import text_tensors
from engine.export.adapter_file import card_text, demand_single_file, header_of, trained_tensors, write_adapter
from engine.export.checkpoint_details import read_details
from engine.export.formats import ExportFormat, ExportResult
from engine.export.naming import export_stem
from engine.export.source import complete_checkpoint
from engine.families.embedding_files import parts_by_folder
from engine.families.family_facts import FamilyFacts
from engine.families.lora_files import lora_deltas, open_adapter
from engine.families.parts import file_tensors
from engine.families.registry import Family, by_name
from engine.runs.checkpoints import AVERAGED_LORA, LORA, Checkpoint

LCM_LINES = ("pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)",)


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
    demand_single_file(way, "A LoRA")
    stage(0, "Reading the checkpoint")
    checkpoint = complete_checkpoint(folder)
    family = by_name(str(checkpoint.about.get("family")))
    tensors = trained_tensors(checkpoint, folder / LORA, folder / AVERAGED_LORA, weights, precision)
    stem = export_stem(name or f"lora_{folder.name}", family.facts)
    target = Path(out_folder) / f"{stem}.safetensors"
    rank_of_run = int((checkpoint.about.get("lora") or {}).get("rank", 0))
    header = lora_header(checkpoint, family.facts, stem, precision, rank_of_run)
    rank = ("rank (dim), alpha", header["ss_network_dim"])
    usage = usage_lines(target.name, header["base"], family.facts, checkpoint.about.get("lcm"))
    card = card_text(f"LoRA: {stem}", "lora", rank, usage, header, checkpoint, family.facts)
    return write_adapter(
        target, way, tensors, header, lambda path: check_layers(path, family, base), card, overwrite, stage
    )


def lora_header(checkpoint: Checkpoint, family: FamilyFacts, stem: str, precision: str, rank: int) -> dict[str, str]:
    """Entries of the file's header."""
    found = family.lora_metadata(rank, read_details(checkpoint.folder).resolution)
    found |= {"ss_output_name": stem, "ss_steps": str(checkpoint.step)}
    if (lcm := checkpoint.about.get("lcm")) and lcm["with_net"]:
        found["trained_under"] = net_words(lcm)
    return found | header_of(checkpoint, stem, precision)


def check_layers(path: Path, family: Family, base: str) -> str:
    """Look up each layer of the file in the base, where that is on this disk."""
    tensors = file_tensors(base, family.facts.denoiser, ("",)) if base else None
    if tensors is None:
        return ""
    file, shapes = open_adapter(path), {family.facts.denoiser: tensors.shapes()}
    if file.changes_text:
        encoders = parts_by_folder(family, "text_encoder", family.load_text_encoder(base, torch.float32))
        for part, encoder in encoders.items():
            shapes[part] = {name: tensor.shape for name, tensor in text_tensors(encoder).items()}
    lora_deltas(file, shapes, family.facts)
    return "Every layer fits the base."


def net_words(lcm: Mapping[str, Any]) -> str:
    """The ControlNet of an LCM-LoRA, for people, with the hash of its file where the checkpoint has it."""
    net = lcm.get("net")
    return f"the ControlNet {net['file']} (SHA-256 {net['sha256'][:10]})" if net else "a ControlNet"


def usage_lines(file: str, base: str, family: FamilyFacts, lcm: dict[str, Any] | None = None) -> list[str]:
    """How other programs use the file, for the card.

    Args:
        lcm: of an LCM-LoRA: its steps and the ControlNet that was used, as in checkpoint.json; None: it is none.
    """
    pipeline = family.pipeline.replace("ControlNet", "")
    few, more = [], ""
    if lcm:
        under = f" It was trained under {net_words(lcm)}: use it with that net." if lcm["with_net"] else ""
        few = [f"**Draw with the LCM sampler, {lcm['steps']} to 8 steps and CFG 1** (no guidance).{under}", ""]
        more = ", LCMScheduler"
    return [
        *few,
        f"**ComfyUI, AUTOMATIC1111, Forge**: put `{file}` into `models/loras` (ComfyUI) or `models/Lora`. Weight 1 "
        "is the strength it was trained at.",
        "",
        "**diffusers**:",
        "",
        "```python",
        f"from diffusers import {pipeline}{more}",
        "",
        f'pipeline = {pipeline}.from_pretrained("{base}")',
        f'pipeline.load_lora_weights("{file}")',
        *(LCM_LINES if lcm else ()),
        "```",
    ]
