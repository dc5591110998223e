"""The embedding file of a run that trained a new word, as other programs read it, and its model card.

Its name is the word: ComfyUI ("embedding:my-mug"), AUTOMATIC1111 and Forge call it up by that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from engine.export.adapter_file import card_text, demand_single_file, header_of, trained_tensors, write_adapter
from engine.export.formats import ExportFormat, ExportResult
from engine.export.source import complete_checkpoint
from engine.families.embedding_files import TWO_KEYS, vectors_of
from engine.families.family_facts import FamilyFacts
from engine.families.lora_files import open_adapter
from engine.families.registry import by_name
from engine.runs.word_files import word_file


def export_embedding(
    folder: Path,
    way: ExportFormat,
    out_folder: Path,
    precision: str,
    weights: str | None,
    overwrite: bool,
    stage: Callable[[int, str], None],
) -> ExportResult:
    """Write the word of a checkpoint and check the file before it gets its name. See ``engine.export.out.export``.

    Raises:
        UserError: the checkpoint is incomplete, the name is taken, the disk is full, or the check failed. Nothing is
            left behind. Cancelled: the token is cancelled. Nothing is left behind.
    """
    demand_single_file(way, "A new word")
    stage(0, "Reading the checkpoint")
    checkpoint = complete_checkpoint(folder)
    family = by_name(str(checkpoint.about.get("family"))).facts
    tensors = trained_tensors(checkpoint, word_file(folder), word_file(folder, average=True), weights, precision)
    about = checkpoint.about["word"]
    word = str(about["word"])
    target = Path(out_folder) / f"{word}.safetensors"
    header = family.embedding_metadata(word) | header_of(checkpoint, word, precision)
    usage = _usage(word, header["base"], family, two=len(tensors) > 1)
    size = ("vectors", about["vectors"])
    card = card_text(f"Embedding: {word}", "textual_inversion", size, usage, header, checkpoint, family)
    return write_adapter(
        target, way, tensors, header, lambda path: _check(path, tensors, family), card, overwrite, stage
    )


def _check(path: Path, tensors: Mapping[str, torch.Tensor], family: FamilyFacts) -> str:
    """Read the file as one that is added to a base."""
    names = TWO_KEYS if len(tensors) > 1 else tuple(tensors)
    vectors_of(open_adapter(path), [tensors[name].shape[1] for name in names], family.title)
    return "Its name is the word, so keep it."


def _usage(word: str, base: str, family: FamilyFacts, two: bool) -> list[str]:
    """Args: two: the base has two text encoders, of which diffusers reads one at a time."""
    pipeline = family.pipeline.replace("ControlNet", "")
    code = [f'pipeline.load_textual_inversion("{word}.safetensors", token="{word}")']
    if two:
        code = [f'vectors = load_file("{word}.safetensors")']
        for key, number in zip(TWO_KEYS, ("", "_2"), strict=True):
            parts = f"text_encoder=pipeline.text_encoder{number}, tokenizer=pipeline.tokenizer{number}"
            code.append(f'pipeline.load_textual_inversion(vectors["{key}"], token="{word}", {parts})')
    return [
        f"**ComfyUI**: put `{word}.safetensors` into `models/embeddings` and write `embedding:{word}` in a prompt. "
        f"**AUTOMATIC1111, Forge**: put it into `embeddings` and write `{word}`. Keep the name of the file: it is the "
        "word.",
        "",
        "**diffusers**:",
        "",
        "```python",
        f"from diffusers import {pipeline}",
        *(["from safetensors.torch import load_file"] if two else []),
        "",
        f'pipeline = {pipeline}.from_pretrained("{base}")',
        *code,
        "```",
    ]
