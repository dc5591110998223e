"""A trial before a run: three real steps and one set of images, measured. Only the figures and the cache remain.

The run uses the cache of latents and text that the trial has built.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.estimate.memory import images_drawn_at_once
from engine.estimate.trials import Measured, write
from engine.jobs.control import Token
from engine.jobs.events import Event, Message, Progress
from engine.jobs.runner import Emit, Work, progress_events
from engine.jobs.snapshot import Outcome
from engine.machine.device import is_card, peak_bytes, reset_peak
from engine.machine.hardware import Hardware
from engine.machine.memory import free_memory
from engine.machine.units import format_bytes
from engine.runs.changes import FALLBACKS
from engine.runs.known_bases import RECORD, error_of
from engine.runs.run import Run, write_run
from engine.training.faults import report_skipped, take_step
from engine.training.losses import read_losses
from engine.training.previews import preview_during_training
from engine.training.speed import uncompiled
from engine.training.step import Skipped
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

STEPS = 3
SAMPLING_STEPS = 2  # memory does not depend on their number, and time is proportional to it
PARTS = STEPS + 1


def preflight_job(workspace: Workspace, config: RunConfig, hardware: Hardware) -> Work:
    """The job: measure these settings, record the figures and report them."""

    def work(token: Token, emit: Emit) -> Outcome:
        emit(Message(f"Trial: {measure_and_record(workspace, config, hardware, token, emit)}"))
        return "completed"

    return work


def measure_and_record(workspace: Workspace, config: RunConfig, hardware: Hardware, token: Token, emit: Emit) -> str:
    """Measure these settings, keep the figures for the estimate, and return them as a sentence.

    Raises:
        UserError, Cancelled: see ``measure``.
    """
    measured = measure(workspace, config, token, emit)
    write(workspace, config, hardware.name, measured)
    kind = "graphics memory" if measured.on_card else "memory"
    words = f"{measured.seconds_per_step:.2f} s per step, at most {format_bytes(measured.peak_bytes)} of {kind}."
    return words + (f" It fitted only with {', '.join(measured.fallbacks)}." if measured.fallbacks else "")


def measure(workspace: Workspace, config: RunConfig, token: Token, emit: Emit) -> Measured:
    """Take the steps and draw the images, in a folder that is removed afterwards.

    Raises:
        UserError: the run could not start with these settings. Cancelled: asked for by the owner.
    """
    dataset = Dataset.open(workspace.dataset_folder(config.data.dataset))
    # Held-out pairs say what an image costs, as many of them as the run draws together.
    pictures = max(config.validation.pictures, images_drawn_at_once(config))
    plain = {"pictures": pictures, "probes": 0, "prompts": "", "pictures_folder": ""}
    few = config.validation.model_copy(update={"sampling_steps": SAMPLING_STEPS, **plain})
    with tempfile.TemporaryDirectory(prefix="trial-", dir=workspace.cache, ignore_cleanup_errors=True) as folder:
        about = {"config": config.model_dump(mode="json"), "condition": {}}
        write_run(Path(folder), about)
        two = config.tuning.model_copy(update={"class_images": 2})  # a step costs the same with more of them
        trial = config.model_copy(update={"validation": few, "tuning": two})
        trainer = _build(Path(folder), trial, workspace, dataset, token, emit)
        try:
            return _measure(trainer, config, token, emit)
        finally:
            trainer.close()


def _build(
    folder: Path, config: RunConfig, workspace: Workspace, dataset: Dataset, token: Token, emit: Emit
) -> Trainer:
    from engine.bases.merging import ready_base
    from engine.training.trainer import Trainer

    def quiet(event: Event) -> None:
        if isinstance(event, Progress | Message):  # a trial opens no run and shows no curve
            emit(event)

    base = ready_base(workspace, config.model.whole_base, token, progress_events(emit))
    return Trainer(folder, config, base, dataset, workspace.cache, token, quiet, preview_during_training)


def _measure(trainer: Trainer, config: RunConfig, token: Token, emit: Emit) -> Measured:
    state = trainer.state
    seconds: list[float] = []
    free_memory()  # of the encoders, if the cache was built: the run itself does not need them
    if state.on_card:
        reset_peak(state.device)
    peak = memory_used(state.device)
    while len(seconds) < STEPS:
        token.raise_if_cancelled()
        began = time.perf_counter()
        outcome = take_step(state, "trial")
        if outcome is None:
            continue
        state.step_done()
        if not isinstance(outcome, Skipped):
            outcome = read_losses(state, [(state.step, outcome)])[0]  # waits for the card
        if isinstance(outcome, Skipped):
            report_skipped(state, state.step, outcome, trainer.save)
            continue
        seconds.append(time.perf_counter() - began)
        peak = max(peak, memory_used(state.device))
        emit(Progress(len(seconds), PARTS, "Trial steps"))
    per_image = 0.0
    if config.validation.every:
        began = time.perf_counter()
        with uncompiled(state):
            preview_during_training(state, state.step)
        drawn = min(state.config.validation.pictures, len(state.held_out)) or 1
        per_image = (time.perf_counter() - began) / drawn * config.validation.sampling_steps / SAMPLING_STEPS
        peak = max(peak, memory_used(state.device))
    emit(Progress(PARTS, PARTS, "Trial images"))
    recorded = Run(state.run_folder).about.get(FALLBACKS, [])
    fallbacks = [fallback for fallback in recorded if fallback["settings"]]  # for others only memory was freed
    timed = seconds[1:]  # the first step chooses kernels and allocates the optimizer's state
    return Measured(
        seconds_per_step=sum(timed) / len(timed),
        seconds_per_picture=per_image,
        peak_bytes=peak,
        on_card=state.on_card,
        fallbacks=tuple(fallback["words"] for fallback in fallbacks),
        settings={name: value for fallback in fallbacks for name, value in fallback["settings"].items()},
        base_error=error_of(Run(state.run_folder).about.get(RECORD, {})),
        dataset=config.data.dataset,
    )


def memory_used(device: torch.device) -> float:
    """Peak bytes of the card so far, with what its driver takes; without a card, those of the process now."""
    if is_card(device):
        from engine.estimate.memory import CONTEXT_BYTES

        return peak_bytes(device) + CONTEXT_BYTES
    return float(psutil.Process().memory_info().rss)
