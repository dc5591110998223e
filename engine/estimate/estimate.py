"""What a run will take, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.errors import UserError
from engine.estimate import trials
from engine.estimate.memory import PROCESS_RAM_WITHOUT_CARD, Prediction, predict
from engine.estimate.trials import Measured
from engine.families.files import denoiser_parameters
from engine.machine.hardware import Hardware
from engine.machine.units import GIB, format_bytes, format_duration
from engine.runs.run import Run
from engine.workspace.paths import Workspace

# Images per second at SD 1.5 shapes and 512 px, by the card's memory: predictions of our cost model for the cards that
# usually have that much, until this machine has trained once itself.
GUESSED_IMAGES_PER_SECOND = ((20, 30.0), (14, 12.0), (10, 6.0), (7, 4.5), (0, 3.0))
CPU_TERAFLOPS_PER_CORE = 0.008


@dataclass(frozen=True)
class Estimate:
    """Seconds are None where nothing is known. ``summary`` is for people."""

    seconds: float | None
    disk_bytes: int
    images: int
    summary: str
    measured: bool


def estimate(config: RunConfig, workspace: Workspace, hardware: Hardware) -> Estimate:
    """Time from this machine's own earlier runs of the same size where there are any, else from a cost model."""
    images = config.train.steps * config.images_per_step
    trial = trials.read(workspace, config, hardware.name)
    seconds, measured = measured_seconds_per_image(config, workspace), True
    if trial is not None:
        seconds = trial.seconds_per_step / config.images_per_step
    if seconds is None:
        measured = False
        parameters = denoiser_parameters(workspace, config.model.base)
        work = parameters * (config.data.resolution / 512) ** 2 / 860e6  # relative to SD 1.5 at 512 px
        if hardware.vram_gib is not None:
            speed = next(rate for floor, rate in GUESSED_IMAGES_PER_SECOND if hardware.vram_gib >= floor)
            seconds = work / speed
        else:
            seconds = 2.33 * work / (CPU_TERAFLOPS_PER_CORE * hardware.cores)
    needed = predict(workspace, config, images_of(config, workspace))
    disk = round(disk_of_checkpoints(config, needed) + needed.cache)
    total = seconds * images
    if trial is not None and config.validation.every:
        sets = 1 + -(-config.train.steps // config.validation.every)
        total += sets * config.validation.images_each_time * trial.seconds_per_picture
    about = "about " if measured else "roughly "
    summary = (
        f"{config.train.steps:,} steps of {config.images_per_step} images, {about}{format_duration(total)}, "
        f"{format_bytes(disk)} of disk ({format_bytes(workspace.free_bytes())} free), "
        f"{memory_in_words(needed, hardware) if trial is None else trial_in_words(trial, hardware)}"
    )
    return Estimate(total, disk, images, summary, measured)


def disk_of_checkpoints(config: RunConfig, needed: Prediction) -> float:
    """Bytes, with the best one, and while a new one is written that is removed for only afterwards."""
    train = config.train
    every = max(1, train.steps // train.checkpoint_every)
    kept = train.keep_checkpoints or every
    if train.keep_checkpoints and train.keep_every:
        kept += train.steps // train.keep_every
    whole = min(kept, train.keep_resumable) if train.keep_resumable else kept
    return needed.checkpoint * (whole + 1) + needed.weights_of_checkpoint * (kept - whole)


def memory_in_words(needed: Prediction, hardware: Hardware) -> str:
    """How much memory, of how much, and what to do where that will hardly do."""
    on_card = hardware.vram_gib is not None
    bytes_needed = needed.needs if on_card else needed.peak + PROCESS_RAM_WITHOUT_CARD
    there = hardware.vram_gib if hardware.vram_gib is not None else hardware.ram_gib
    kind = "graphics memory" if on_card else "memory"
    words = f"{format_bytes(bytes_needed)} of {kind} by prediction ({there:.0f} GB there)"
    if bytes_needed > there * GIB:
        words += ". That is more than there is: take a preset for a smaller card, or the run will shrink its batches"
    if on_card and needed.ram > hardware.ram_gib * GIB:
        words += (
            f". It also needs {format_bytes(needed.ram)} of the computer's memory, and {hardware.ram_gib:.0f} GB are "
            "there: close other programs, or train a Control-LoRA"
        )
    return words


def trial_in_words(trial: Measured, hardware: Hardware) -> str:
    """The memory that a trial measured, and what it had to change."""
    there = hardware.vram_gib if trial.on_card and hardware.vram_gib is not None else hardware.ram_gib
    kind = "graphics memory" if trial.on_card else "memory"
    words = f"{format_bytes(trial.peak_bytes)} of {kind} as a trial measured ({there:.0f} GB there)"
    return f"{words}; it fitted only with {', '.join(trial.rungs)}" if trial.rungs else words


def images_of(config: RunConfig, workspace: Workspace) -> int:
    """In the dataset; 0 while none is chosen."""
    if config.data.dataset not in workspace.dataset_names():
        return 0
    return Dataset.open(workspace.dataset_folder(config.data.dataset)).count()


def measured_seconds_per_image(config: RunConfig, workspace: Workspace) -> float | None:
    """Median over the last steps of the newest run with the same base, resolution and batch; None without one."""
    for folder in workspace.run_folders()[:10]:
        try:
            run = Run(folder)
        except UserError:
            continue  # a damaged run tells no time; the Train tab says what is wrong with it
        same = (
            run.config.model.base == config.model.base
            and run.config.data.resolution == config.data.resolution
            and run.config.train.batch_size == config.train.batch_size
            and run.config.train.precision == config.train.precision
            and run.config.model.control_lora_rank == config.model.control_lora_rank
        )
        if not same:
            continue
        metrics = run.metrics()
        if any("processes" in entry for entry in metrics):
            continue  # several cards shared it; the window trains on one
        seconds = [entry["seconds"] for entry in metrics[-200:] if "seconds" in entry]
        if len(seconds) >= 5:
            return sorted(seconds)[len(seconds) // 2] / run.config.images_per_step
    return None
