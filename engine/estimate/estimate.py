"""What a run will take: time, disk and memory in one sentence, before it starts."""

from __future__ import annotations

from engine.config import RunConfig, speed_settings
from engine.data.dataset import Dataset
from engine.errors import UserError
from engine.estimate import trials
from engine.estimate.memory import PROCESS_RAM_WITHOUT_CARD, LongCaptions, Prediction, predict
from engine.estimate.trials import Measured
from engine.families.files import denoiser_parameters
from engine.families.text import MAX_CHUNKS
from engine.machine.hardware import Hardware
from engine.machine.units import GIB, counted, format_bytes, format_duration, format_memory
from engine.runs.run import Run
from engine.workspace.paths import Workspace

# Images per second with SD 1.5 at 512 px, by the card's memory in GiB. Predictions of our cost model for the cards that
# usually have that much; used until this machine has trained once.
GUESSED_IMAGES_PER_SECOND = ((20, 30.0), (14, 12.0), (10, 6.0), (7, 4.5), (0, 3.0))
CPU_TERAFLOPS_PER_CORE = 0.008
CHARACTERS_PER_CHUNK = 4 * 75  # of English; CLIP's tokens have 4 to 5 characters with the space
RECENT_RUNS, RECENT_LINES, FEWEST_STEPS = 10, 200, 5


def estimate(config: RunConfig, workspace: Workspace, hardware: Hardware) -> str:
    """The sentence for people, without a full stop."""
    needed = predict(workspace, config, dataset_size(config, workspace), long_captions(config, workspace))
    seconds, measured = run_seconds(config, workspace, hardware)
    disk = checkpoint_bytes(config, needed) + needed.cache
    trial = trials.read(workspace, config, hardware.name)
    memory = predicted_memory(needed, hardware) if trial is None else measured_memory(trial, hardware)
    return (
        f"{counted(config.train.steps, 'step')} of {counted(config.images_per_step, 'image')}, "
        f"{'about' if measured else 'roughly'} {format_duration(seconds)}, "
        f"{format_bytes(disk)} of disk ({format_bytes(workspace.free_bytes())} free), {memory}"
    )


def run_seconds(config: RunConfig, workspace: Workspace, hardware: Hardware) -> tuple[float, bool]:
    """Seconds of the whole run, and whether they were measured.

    They are measured if a trial on this machine, or an earlier run, had the same settings as far as these affect speed.
    Otherwise they come from a cost model.
    """
    images = config.train.steps * config.images_per_step
    trial = trials.read(workspace, config, hardware.name)
    if trial is not None:
        seconds = config.train.steps * trial.seconds_per_step
        return seconds + preview_seconds(config, seconds, trial.seconds_per_picture), True
    if (each := measured_seconds_per_image(config, workspace, hardware.name)) is not None:
        return each * images, True
    work = (
        denoiser_parameters(workspace, config.model.base) * (config.data.resolution / 512) ** 2 / 860e6
    )  # relative to SD 1.5 at 512 px
    if hardware.vram_gib is None:
        return images * 2.33 * work / (CPU_TERAFLOPS_PER_CORE * hardware.cores), False
    speed = next(rate for least, rate in GUESSED_IMAGES_PER_SECOND if hardware.vram_gib >= least)
    return images * work / speed, False


def preview_seconds(config: RunConfig, training: float, each: float) -> float:
    """Seconds for the preview images of a whole run.

    Args:
        training: seconds of its steps.
        each: seconds for one image.
    """
    validation = config.validation
    if not validation.every:
        return 0.0
    probes = 2 * min(validation.probes, validation.pictures)
    shorter = (validation.probe_steps or validation.sampling_steps) / validation.sampling_steps
    one_set = (validation.images_each_time - probes + probes * shorter) * each
    between = -(-config.train.steps // validation.every) - 1  # sets, apart from the first and the last
    return 2 * one_set + min(between * one_set, validation.share_of_previews * training)


def measured_seconds_per_image(config: RunConfig, workspace: Workspace, machine: str) -> float | None:
    """Median over the last steps of the newest run that was equally fast; None if there is none.

    Args:
        machine: name of the card, or of the processor. Runs that were trained on another one do not count.
    """
    wanted = speed_settings(config)
    for folder in workspace.run_folders()[:RECENT_RUNS]:
        try:
            run = Run(folder)
        except UserError:
            continue  # the Train tab says what is wrong with a damaged run
        if speed_settings(run.config) != wanted:
            continue
        metrics = run.metrics()
        if any("processes" in entry for entry in metrics):
            continue  # several cards shared the work; the window trains on one
        if run.machine not in ("", machine):
            continue
        since = max((change.step for change in run.changes), default=0)  # before, it had other settings
        recent = metrics[-RECENT_LINES:]
        seconds = [entry["seconds"] for entry in recent if "seconds" in entry and entry["step"] > since]
        if len(seconds) >= FEWEST_STEPS:
            return sorted(seconds)[len(seconds) // 2] / run.config.images_per_step
    return None


def checkpoint_bytes(config: RunConfig, needed: Prediction) -> float:
    """Most disk space that checkpoints take: all that are kept, the best one, and the one that is being written."""
    train = config.train
    every = max(1, train.steps // train.checkpoint_every)
    kept = train.keep_checkpoints or every
    if train.keep_checkpoints and train.keep_every:
        kept += train.steps // train.keep_every
    resumable = min(kept, train.keep_resumable) if train.keep_resumable else kept
    return needed.checkpoint * (resumable + 1) + needed.weights_of_checkpoint * (kept - resumable)


def predicted_memory(needed: Prediction, hardware: Hardware) -> str:
    """How much memory a run needs of how much there is, and what to do if that is hardly enough."""
    on_card = hardware.vram_gib is not None
    bytes_needed = needed.needs if on_card else needed.peak + PROCESS_RAM_WITHOUT_CARD
    there = hardware.vram_gib if hardware.vram_gib is not None else hardware.ram_gib
    kind = "graphics memory" if on_card else "memory"
    text = f"{format_bytes(bytes_needed)} of {kind} predicted ({format_memory(there)} available)"
    if bytes_needed > there * GIB:
        text += (
            ". That is more than available: choose a preset for a smaller card, or the run will change its "
            "settings when memory runs out"
        )
    if on_card and needed.ram > hardware.ram_gib * GIB:
        text += (
            f". It also needs {format_bytes(needed.ram)} of the computer's memory, and "
            f"{format_memory(hardware.ram_gib)} are available: close other programs, or train a Control-LoRA"
        )
    return text


def measured_memory(trial: Measured, hardware: Hardware) -> str:
    """The memory that a trial measured, and what it had to change to fit."""
    there = hardware.vram_gib if trial.on_card and hardware.vram_gib is not None else hardware.ram_gib
    kind = "graphics memory" if trial.on_card else "memory"
    text = f"{format_bytes(trial.peak_bytes)} of {kind} measured by a trial ({format_memory(there)} available)"
    return f"{text}; it fitted only with {', '.join(trial.fallbacks)}" if trial.fallbacks else text


def long_captions(config: RunConfig, workspace: Workspace) -> LongCaptions:
    """The long captions of the dataset, by their number of characters: no tokenizer is loaded for an estimate."""
    if config.data.long_captions == "cut" or config.data.dataset not in workspace.dataset_names():
        return LongCaptions()
    dataset = Dataset.open(workspace.dataset_folder(config.data.dataset))
    longest, count = dataset.captions.lengths(dataset.index.path, CHARACTERS_PER_CHUNK)
    chunks = min(MAX_CHUNKS, max(1, -(-longest // CHARACTERS_PER_CHUNK)))
    return LongCaptions(count, chunks)


def dataset_size(config: RunConfig, workspace: Workspace) -> int:
    """Images in the dataset; 0 while none is chosen."""
    if config.data.dataset not in workspace.dataset_names():
        return 0
    return Dataset.open(workspace.dataset_folder(config.data.dataset)).count()
