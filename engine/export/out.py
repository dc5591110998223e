"""Exports a net: write under a temporary name, read back, compare, rename. No incomplete file has a real name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.export.formats import (
    AS_TRAINED,
    DEFAULT_RANK,
    WHOLE,
    ExportResult,
    Precision,
    Weights,
    get,
    measured,
    require_precision,
)
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
from engine.families.files import is_local
from engine.jobs.control import CancelToken, OnProgress
from engine.runs.checkpoints import LORA
from engine.runs.word_files import word_file

if TYPE_CHECKING:
    from engine.export.quantization_check import QuantizationCheck
    from engine.export.source import Source
    from engine.families.registry import Family
    from engine.runs.checkpoints import Checkpoint


def export(
    checkpoint: Path,
    format: str,
    out_folder: Path,
    name: str,
    precision: Precision = "fp16",
    weights: Weights | None = None,
    overwrite: bool = False,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    base: str = "",
    rank: int = AS_TRAINED,
    quantization_check: QuantizationCheck | None = None,
) -> ExportResult:
    """Write one net and check it before it gets its name. A folder NAME_card beside it has the model card.

    Args:
        checkpoint: the folder step-N of a run.
        format: name of an export format.
        name: of the file or folder, as typed; it is made safe and marked with the base's version. That of a new word
            is the word.
        weights: default: the averaged ones if the run keeps them.
        progress: called as progress(stages done, in all, label).
        base: located. A Control-LoRA needs it; other formats compare images with it. Empty: the checkpoint's own, if it
            is on this disk.
        rank: of a Control-LoRA, or of a LoRA that a trained base is exported as; or AS_TRAINED.
        quantization_check: measures the loss of a precision that is too coarse to be trusted; required for those.

    Raises:
        UserError: the checkpoint is incomplete, the name is taken or misleading, the disk is full, a check failed, or
            the quantization loss is too large. Nothing is left behind.
        Cancelled: the token is cancelled. Nothing is left behind.
    """
    from engine.export import model_card, same_image
    from engine.export.checkpoint_details import read_details
    from engine.export.naming import export_stem
    from engine.export.source import read_source, whole_checkpoint
    from engine.families.registry import by_name
    from engine.tuning.svdiff import SHIFTS
    from engine.tuning.whole_base import DENOISER

    stage = stages(token, progress)
    of_base = any((checkpoint / name).is_file() for name in (DENOISER, SHIFTS))
    one_net = not (of_base or (checkpoint / LORA).is_file() or word_file(checkpoint).is_file())
    require_precision(precision, get(format).precisions if one_net else WHOLE)
    if of_base:
        from engine.export.base_export import export_base

        return export_base(
            checkpoint, format, out_folder, name, precision, weights, overwrite, stage, token, base, rank
        )
    way = get(format)
    if (checkpoint / LORA).is_file():
        from engine.export.lora_file import export_lora

        return export_lora(checkpoint, way, out_folder, name, precision, weights, overwrite, stage, base)
    if word_file(checkpoint).is_file():
        from engine.export.embedding_file import export_embedding

        return export_embedding(checkpoint, way, out_folder, precision, weights, overwrite, stage)
    stage(0, "Reading the checkpoint")
    whole = whole_checkpoint(checkpoint)
    family = by_name(str(whole.about.get("family")))
    if format not in (known := family.facts.control_files.formats):
        raise UserError(
            f"This ControlNet cannot be exported as “{way.title}”.",
            f"There is no such format for {family.title}.",
            f"Choose “{'” or “'.join(get(name).title for name in known)}”.",
        )
    stem = export_stem(name or f"controlnet_{checkpoint.name}", family.facts)
    target = Path(out_folder) / f"{stem}{way.ending}"
    card = target.with_name(f"{stem}{CARD_ENDING}")
    demand_free_name(target, way, overwrite)
    if way.ending:
        model_card.require_ours(card)
    if not base and not whole.about.get("ingredients"):  # a merged base is not found by its name
        base = _local_base(str(whole.about.get("base", "")), bool(way.ranks))
    weights = weights or ("ema" if whole.has_ema else "plain")
    if way.holds_base:
        from engine.export.onnx_folder import export_onnx

        source = read_source(whole, "fp32", weights, read_details(checkpoint))
        chosen = (Path(out_folder), stem, precision, overwrite)
        return export_onnx(whole, source, way, *chosen, family, base, stage, quantization_check)
    source = read_source(whole, precision, weights, read_details(checkpoint))
    if way.ranks:
        stage(0, "Factorising")
        source = _against_base(source, whole, weights, family, base, rank, token)
    loss = _quantization_loss(quantization_check, source) if measured(precision) else ""
    demand_space(target, source.bytes)
    module = importlib.import_module(way.module)
    with temporary_names(target, card) as (temporary, temporary_card):
        stage(1, "Writing")
        write_or_explain(lambda: module.write(temporary, source), target)
        give_ordinary_permissions(temporary)
        stage(2, "Checking")
        read = module.read(temporary)
        checked = " ".join(filter(None, (loss, _check(temporary, read, source, family, stem, target.name))))
        stage(3, "Drawing the same image with both")
        checked += " " + same_image.check(source, read[1], family, base, target.name, token)
        del read
        stage(4, "Writing the model card")
        if way.ending:
            temporary_card.mkdir()
        details, beside = read_details(checkpoint), temporary_card if way.ending else temporary
        file = target.name if way.ending else ""
        write_or_explain(
            lambda: model_card.write_card(beside, file, way.name, source.metadata, family.facts, details), target
        )
        stage(5, "Done")
        demand_free_name(target, way, overwrite)
        give_names(temporary, target, temporary_card if way.ending else None, card)
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    return ExportResult(target, sum(path.stat().st_size for path in files), checked, card if way.ending else target)


def _quantization_loss(check: QuantizationCheck | None, source: Source) -> str:
    if check is None:
        raise UserError(
            f"Nothing was exported in {source.precision}.",
            "Its loss of adherence has to be measured first, and this checkpoint belongs to no run whose images could "
            "be drawn.",
            "Export in fp16.",
        )
    return check(source)


def _check(path: Path, read: tuple[Any, dict[str, Any]], source: Source, family: Family, stem: str, name: str) -> str:
    from engine.export import self_check

    config, tensors = read
    sentences = [
        self_check.check(source, config, tensors, name),
        self_check.check_readers(path, source, stem, family.facts),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _local_base(base: str, needed: bool) -> str:
    """The located base that a checkpoint names, if it needs no download; else empty.

    Args:
        needed: accept a hub id, too: a run that trained with it has downloaded it before.
    """
    from engine.export.source import public_name
    from engine.workspace.paths import bundled_bases

    if bundled := bundled_bases().get(base):
        return str(bundled)
    on_the_hub = needed and "/" in base and public_name(base) == base
    return base if base and (on_the_hub or is_local(base)) else ""


def _against_base(
    source: Source, whole: Checkpoint, weights: Weights, family: Family, base: str, rank: int, token: CancelToken | None
) -> Source:
    from engine.export.control_lora import against_base, as_trained
    from engine.export.source import read_factors
    from engine.nets.importing import copied_weights

    if not base:
        raise UserError(
            "The Control-LoRA cannot be made.",
            f"It is the difference to the base {source.metadata.get('base', '')}, which was not found on this "
            "computer.",
            "Put the base back in the models folder, or choose another format.",
        )
    copied, trained = copied_weights(family, base), whole.trained_rank
    if trained and rank in (AS_TRAINED, trained):
        precision = str(whole.about["control_lora"].get("precision", "fp32"))
        return as_trained(source, read_factors(whole, weights), copied, trained, precision)
    return against_base(source, copied, rank or DEFAULT_RANK, token)
