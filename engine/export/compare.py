"""Size against quality: each way to write a net, its megabytes, and its adherence on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.bases.merging import ready_base
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.held_out import split
from engine.disk.in_use import clear
from engine.errors import UserError
from engine.evaluation.pairs import Models
from engine.evaluation.previews import PreviewRequest, make_previews
from engine.export.formats import AS_TRAINED, FORMATS, Precision, Weights
from engine.export.out import export
from engine.export.source import read_source, whole_checkpoint
from engine.export.table import Row, Table, write_table
from engine.families.registry import detect
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.cards import torch_device
from engine.machine.units import MIB
from engine.nets.importing import read_controlnet
from engine.nets.outputs import net_of
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.workspace.paths import Workspace

MAIN_SCORES = ("adherence", "iou")
"""The table shows the first of these that the run's images have."""
WHOLE = "checkpoint"


@dataclass(frozen=True)
class Variant:
    """One way to write a net."""

    title: str
    format: str
    precision: Precision
    rank: int = 0


def variants(trained_rank: int = 0) -> list[Variant]:
    """The ways that differ in values; formats that differ in names alone are left out.

    Args:
        trained_rank: rank of a Control-LoRA run, else 0.
    """
    made = [Variant(f"one file, {precision}", "single_file", precision) for precision in PRECISIONS]
    if trained_rank:
        made.append(Variant(f"Control-LoRA as trained, rank {trained_rank}", "control_lora", "fp16", AS_TRAINED))
    for way in FORMATS:
        made += [Variant(f"Control-LoRA, rank {rank}", way.name, "fp16", rank) for rank in way.ranks]
    return made


PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")


def compare(
    workspace: Workspace,
    run: Run,
    checkpoint: Checkpoint,
    weights: Weights | None = None,
    chosen: Sequence[Variant] | None = None,
    images: int = 0,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> Table:
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
    base = ready_base(workspace, run.config.model.whole_base)
    family = detect(base)
    dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    samples = split(dataset, run.config.data.held_out, run.held_out).held_out
    settings = run.config.validation
    count = min(len(samples), images or settings.pictures)
    settings = settings.model_copy(update={"pictures": count})
    device = torch_device()
    denoiser: Any = family.load_denoiser(base, torch.float16 if device.type == "cuda" else torch.float32).to(device)
    plan = CropPlan.of(run.config.data, run.config.train.seed)
    scratch = run.exports / ".comparing"
    clear(scratch)
    whole = whole_checkpoint(checkpoint.folder)
    source = read_source(whole, "fp32", weights or ("ema" if whole.has_ema else "plain"))
    todo = list(chosen if chosen is not None else variants(whole.trained_rank))

    def measure(config: dict[str, Any], tensors: dict[str, torch.Tensor], number: int) -> dict[str, float]:
        net = net_of(config, tensors).to(device)
        request = PreviewRequest(
            samples=samples,
            dataset=dataset,
            settings=settings,
            plan=plan,
            out_folder=scratch / "pictures",
            step=number,
        )
        models = Models(family, base, denoiser, net, text=run.config.text, schedule=checkpoint.noise_schedule)
        record = make_previews(models, request, token=token)
        return record.scores

    def report(done: int, label: str) -> None:
        if token:
            token.raise_if_cancelled()
        if progress:
            progress(done, len(todo) + 1, label)

    try:
        report(0, "Measuring the checkpoint")
        scores = measure(source.config, source.original, 0)
        name = next((score for score in MAIN_SCORES if score in scores), "")
        if not name:
            raise UserError(
                "The files cannot be compared by a score.",
                "This run's images have no score: its condition type has none.",
                "Compare the files by eye, in Try it.",
            )
        reference = scores[name]
        size = sum(tensor.numel() * 4 for tensor in source.original.values())
        rows = [Row(WHOLE, size / MIB, reference, 0.0)]
        for number, variant in enumerate(todo, start=1):
            report(number, f"Measuring {variant.title}")
            made = export(
                checkpoint.folder,
                variant.format,
                scratch,
                f"variant-{number}",
                variant.precision,
                weights,
                token=token,
                base=base,
                rank=variant.rank,
            )
            back = read_controlnet(made.path, family, base)
            score = measure(back.config, back.tensors, number)[name]
            rows.append(Row(variant.title, made.bytes / MIB, score, reference - score))
            clear(made.path)
    finally:
        clear(scratch)
    table = Table(tuple(rows), name, count, checkpoint.step)
    write_table(table, run.exports)
    return table
