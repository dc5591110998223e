"""Size against quality: each way to write a net, its megabytes, and its adherence on held-out pairs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from engine.disk.in_use import clear
from engine.errors import UserError
from engine.export.formats import AS_TRAINED, FORMATS, Precision, Weights, get
from engine.export.held_out_scores import HeldOutScorer, Scores
from engine.export.out import export
from engine.export.quantization_check import QuantizationCheck
from engine.export.quantization_loss import Interval
from engine.export.size_table import Row, SizeTable, write_table
from engine.export.source import read_source, whole_checkpoint
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.onnx_packages import TO_EXPORT, missing_packages
from engine.machine.units import MIB
from engine.nets.importing import read_controlnet
from engine.nets.onnx_net import is_onnx, open_nets, read_description
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.workspace.paths import Workspace

MAIN_SCORES = ("adherence", "iou")
"""The table shows the first of these that the run's images have."""
WHOLE_NET = "checkpoint"


@dataclass(frozen=True)
class Variant:
    """One way to write a net."""

    title: str
    format: str
    precision: Precision
    rank: int = 0


def variants(trained_rank: int = 0, formats: Collection[str] = ()) -> list[Variant]:
    """The ways that differ in values; formats that differ in names alone are left out.

    Args:
        trained_rank: rank of a Control-LoRA run, else 0.
        formats: that the family has. ONNX is left out where its packages are missing.
    """
    made = [Variant(f"one file, {precision}", "single_file", precision) for precision in PRECISIONS]
    if trained_rank:
        made.append(Variant(f"Control-LoRA as trained, rank {trained_rank}", "control_lora", "fp16", AS_TRAINED))
    for way in FORMATS:
        made += [Variant(f"Control-LoRA, rank {rank}", way.name, "fp16", rank) for rank in way.ranks]
    if "onnx" in formats and not missing_packages(TO_EXPORT):
        words = {"int8_dynamic": "dynamic int8", "int8_static": "static int8"}
        precisions = get("onnx").precisions
        made += [Variant(f"ONNX with its base, {words.get(one, one)}", "onnx", one) for one in precisions]
    return made


PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "fp8")


def compare(
    workspace: Workspace,
    run: Run,
    checkpoint: Checkpoint,
    weights: Weights | None = None,
    chosen: Sequence[Variant] | None = None,
    images: int = 0,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> SizeTable:
    """Write each variant, read it back, draw the run's held-out pairs with it at fixed seeds, and score them.

    The table is written into the run's exports folder; the exported files are removed.

    Args:
        weights: default: the averaged ones if the run keeps them.
        chosen: default: all ``variants``.
        images: held-out pairs to draw; 0: as many as the run draws for its previews.
        progress: called as progress(variants done, in all, label).

    Raises:
        UserError: the dataset is gone, has no score, or a variant cannot be made.
        Cancelled: the token is cancelled; nothing is left behind.
    """
    whole = whole_checkpoint(checkpoint.folder)
    weights = weights or ("ema" if whole.has_ema else "plain")
    source = read_source(whole, "fp32", weights)
    pairs = HeldOutScorer(workspace, run, checkpoint, images)
    todo = list(
        chosen if chosen is not None else variants(whole.trained_rank, pairs.family.facts.control_files.formats)
    )

    def report(done: int, label: str) -> None:
        if token:
            token.raise_if_cancelled()
        if progress:
            progress(done, len(todo) + 1, label)

    def row(title: str, size: float, scores: Scores) -> Row:
        found = scores.adherence
        interval = Interval(found.value, found.low, found.high) if found else None
        return Row(title, size / MIB, scores.means[name], reference - scores.means[name], interval)

    with pairs:
        report(0, "Measuring the checkpoint")
        scores = pairs.measure(source.config, source.original, token)
        name = next((score for score in MAIN_SCORES if score in scores.means), "")
        if not name:
            raise UserError(
                "The files cannot be compared by a score.",
                "This run's images have no score: its condition type has none.",
                "Compare the files by eye, in Try it.",
            )
        reference = scores.means[name]
        rows = [row(WHOLE_NET, sum(tensor.numel() * 4 for tensor in source.original.values()), scores)]
        for number, variant in enumerate(todo, start=1):
            report(number, f"Measuring {variant.title}")
            made = export(
                checkpoint.folder,
                variant.format,
                pairs.scratch,
                f"variant-{number}",
                variant.precision,
                weights,
                token=token,
                base=pairs.base,
                rank=variant.rank,
                quantization_check=QuantizationCheck(workspace, run, checkpoint, enabled=False),  # it is measured here
            )
            if is_onnx(made.path):
                base = pairs.family.denoiser_config(pairs.base)
                about = read_description(made.path)
                nets = open_nets(made.path, about, base, pairs.base, pairs.family.facts, "onnx")
                found = pairs.measure_nets(*nets, token)
            else:
                back = read_controlnet(made.path, pairs.family, pairs.base)
                found = pairs.measure(back.config, back.tensors, token)
            rows.append(row(variant.title, made.bytes, found))
            clear(made.path)
    table = SizeTable(tuple(rows), name, pairs.pairs, checkpoint.step)
    write_table(table, run.exports)
    return table
