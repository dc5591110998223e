"""The command "demo": make a dataset, train, score, export, and print a table that shows whether it worked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.config import RunConfig
from engine.config.presets import resolve
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.held_out import split
from engine.demo.sets import DEFAULT_COUNT, demo_preset, make_demo_set
from engine.errors import UserError
from engine.evaluation.pairs import Models
from engine.evaluation.previews import PreviewRequest, make_previews
from engine.export import export
from engine.families.files import family_of
from engine.families.registry import detect
from engine.jobs.control import OnProgress, Token
from engine.jobs.events import PhaseChanged
from engine.jobs.runner import Emit
from engine.machine.device import torch_device
from engine.machine.units import counted, format_duration
from engine.runs.run import PreviewRecord, Run
from engine.training.job import training_job
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace

# What the demo has to reach on two processor cores.
MIN_IOU, MIN_COLOURS, MAX_IOU_WITHOUT = 0.85, 0.85, 0.35
Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """Scores over the held-out pairs, 0 to 1, and the files that were made."""

    iou: float
    colours: float
    iou_without: float
    run_folder: Path
    exported: tuple[Path, ...]

    @property
    def shortfalls(self) -> list[str]:
        """A sentence for each score that is too low, and for one that is too high without control."""
        found = []
        if self.iou < MIN_IOU:
            found.append(f"The disc overlaps its outline by {self.iou:.2f} (IoU); at least {MIN_IOU} is expected.")
        if self.colours < MIN_COLOURS:
            found.append(
                f"Both colours are right in {self.colours:.0%} of the images; at least {MIN_COLOURS:.0%} is expected."
            )
        if self.iou_without > MAX_IOU_WITHOUT:
            found.append(
                f"Without control the overlap is {self.iou_without:.2f}; at most {MAX_IOU_WITHOUT} is expected."
            )
        return found


def run_demo(
    workspace: Workspace,
    token: Token,
    emit: Emit,
    report: OnProgress,
    say: Say,
    count: int = DEFAULT_COUNT,
    overrides: dict[str, Any] | None = None,
    base: str = "",
) -> DemoResult:
    """Make the dataset, train, score 64 held-out pairs with and without control, and export.

    Args:
        emit: receives the events of the training.
        report: called with the progress of everything else as (done, total, label).
        say: called with each line of the output.
        overrides: partial settings that replace the demo's own.
        base: name of the base; "": the overrides', or the demo's first one.

    Raises:
        UserError, Cancelled.
    """
    preset = demo_preset()
    asked = [("you", {"model": {"base": base}} if base else {}), ("you", overrides or {})]
    base = resolve(*preset.layers(), *asked)[0].model.base
    settings = preset.layers(family_of(workspace, base))
    resolve(*settings, *asked)  # wrong settings are an error before anything is drawn
    say(f"1/4  Drawing {counted(count, 'pair')} of coloured circles")
    dataset = make_demo_set(workspace, "circles", count, report, token)
    chosen = ("dataset", {"name": "demo", "data": {"dataset": dataset.name}})
    config, origins = resolve(*settings, chosen, *asked)
    run = create_run(workspace, config, origins)
    say(f"2/4  Training {counted(config.train.steps, 'step')} of {counted(config.images_per_step, 'image')}")
    began = time.perf_counter()
    outcome = training_job(workspace, run)(token, emit)
    seconds = time.perf_counter() - began
    if outcome != "completed":
        raise UserError(
            "The demo was interrupted.",
            f"Its training is saved in {run.folder}.",
            "Run it again, or resume it in the window.",
        )
    emit(PhaseChanged("preparing"))  # so that the time left is that of the current stage
    say("3/4  Scoring the held-out pairs, with and without control")
    final = score_held_out(workspace, run, token, report)
    say("4/4  Exporting")
    exported = tuple(
        export(run.checkpoints()[-1].folder, kind, run.exports, "demo-circles", overwrite=True).path
        for kind in ("single_file", "diffusers")
    )
    scores = final.scores
    for line in table(run, config, final):
        say(line)
    say(f"Training took {format_duration(seconds)}. Images: {run.folder / 'previews'} and {final.folder}")
    say(f"Your ControlNet: {exported[0]}")
    return DemoResult(
        scores["iou"],
        scores["colours"],
        scores["iou_without_control"],
        run.folder,
        exported,
    )


def score_held_out(workspace: Workspace, run: Run, token: Token, report: OnProgress | None = None) -> PreviewRecord:
    """Draw every held-out pair with the last checkpoint, with and without control, into the evaluation folder."""
    base = workspace.locate_base(run.config.model.whole_base)
    family = detect(base)
    checkpoint = run.checkpoints()[-1]
    device = torch_device()
    dataset = Dataset.open(workspace.existing_dataset(run.config.data.dataset))
    held_out = split(dataset, run.config.data.held_out, Run(run.folder).held_out).held_out
    settings = run.config.validation.model_copy(update={"pictures": len(held_out)})
    models = Models(
        family,
        base,
        family.load_denoiser(base, torch.float32).to(device),
        family.load_controlnet(checkpoint.controlnet).to(device),
        text=run.config.text,
        schedule=checkpoint.noise_schedule,
    )
    request = PreviewRequest(
        samples=held_out,
        dataset=dataset,
        settings=settings,
        plan=CropPlan.of(run.config.data, run.config.train.seed),
        out_folder=run.folder / "evaluation",
        step=checkpoint.step,
        seed=run.config.train.seed,
        without_control=True,
    )
    return make_previews(models, request, token=token, progress=report)


def table(run: Run, config: RunConfig, final: PreviewRecord) -> list[str]:
    """Lines of the table: one for each set of preview images, then the scores over all held-out pairs."""
    losses = {entry["step"]: entry["loss"] for entry in run.metrics() if "loss" in entry}
    head = f"{'step':>7} {'images':>8} {'loss':>7} {'disc IoU':>9} {'colours right':>14}"
    lines = ["", head, "-" * len(head)]
    for record in run.previews():
        recent = [loss for step, loss in losses.items() if record.step - 50 < step <= record.step]
        loss = f"{sum(recent) / len(recent):.4f}" if recent else "-"
        drawn = counted(len(record.pictures), "pair")
        lines.append(
            f"{record.step:>7,} {record.step * config.images_per_step:>8,} {loss:>7} "
            f"{record.scores['iou']:>9.2f} {record.scores['colours']:>14.0%}   ({drawn})"
        )
    scores, pairs = final.scores, len(final.pictures)
    lines.append("-" * len(head))
    lines.append(
        f"{'with control':>24} {scores['iou']:>9.2f} {scores['colours']:>14.0%}   ({counted(pairs, 'held-out pair')})"
    )
    without = (scores["iou_without_control"], scores["colours_without_control"])
    lines.append(f"{'without control':>24} {without[0]:>9.2f} {without[1]:>14.0%}   (same prompts, same noise)")
    lines.append("")
    return lines
