"""Checkpoint folders: usable weights and, apart from them, what a resume needs.

Written under a temporary name, then renamed.

step-000500/
  checkpoint.json        step, images seen, condition, base, family, versions; sizes and checksums of all other files
  controlnet/            diffusers folder, fp32 (with ema: also controlnet_ema/)
  control_lora/          the trained tensors of a Control-LoRA, fp32; controlnet/ is the same, merged into the base
  base_decoder/          the UNet's decoder, fp32, if it is trained, too (sd_locked off)
  training_state/        optimizer.safetensors, state.json
  starred                empty; exists if the user wants to keep this checkpoint
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engine.disk.durable import ChecksumPool, atomic_write_text, flush_folder
from engine.disk.in_use import clear
from engine.disk.space import require_space
from engine.errors import TrainingBroke, UserError
from engine.machine.errors import as_os_error, is_of_machine
from engine.nets.ema import EMA, ema_names, ema_weights
from engine.runs.checkpoints import (
    DESCRIPTION,
    STATE,
    Checkpoint,
    describe_files,
    description_checksum,
    give_name,
    is_whole,
    read_checkpoint,
    temporary_name,
)
from engine.tuning.trainable import Trainable
from engine.version import VERSION

LEVELS = "|"  # between the levels of a nested state


def optimizer_to_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimizer's state as named tensors ("0.exp_avg") and plain values (the rest).

    The 8-bit optimizers of bitsandbytes nest theirs one level deeper: "0.quant_state|state1". On a processor all
    weights share one table, which a safetensors file cannot express: each gets a copy (1 KB).
    """
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    plain: dict[str, Any] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            kept = value.detach().cpu().contiguous()
            place = kept.untyped_storage().data_ptr()
            tensors[name] = kept.clone() if place in storages else kept
            storages.add(place)
        elif isinstance(value, dict):
            for inner, entry in value.items():
                put(f"{name}{LEVELS}{inner}", entry)
        else:
            plain[name] = value

    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            put(f"{index}.{name}", value)
    return tensors, plain


def tensors_to_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], plain: dict[str, Any]
) -> None:
    """The inverse of ``optimizer_to_tensors``; the parameter groups stay as the config made them."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**plain, **tensors}.items():
        index, path = key.split(".", 1)
        *outer, name = path.split(LEVELS)
        place = state.setdefault(int(index), {})
        for level in outer:
            place = place.setdefault(level, {})
        # A clone, not a part of the file's buffer: see ``engine.nets.initial.in_own_memory``.
        place[name] = value.clone() if isinstance(value, torch.Tensor) else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def stage_checkpoint(
    run_folder: Path,
    step: int,
    images_seen: int,
    trainable: Trainable,
    ema: EMA | None,
    optimizer: torch.optim.Optimizer,
    scaler: dict[str, Any] | None,
    about: dict[str, Any],
) -> Callable[[], Checkpoint]:
    """Write the files of a checkpoint. A whole one of the same step is left as it is.

    When this returns the weights may change again: the files hold them. Training has to wait no longer than that.

    Args:
        scaler: state of the fp16 loss scale, or None.
        about: plain facts for checkpoint.json (condition, base, family ...).

    Returns:
        A function to be called once, in any thread. It waits until the disk has all files, renames the folder, and
        returns the checkpoint. It raises OSError if the disk did not take it; where only the rename failed, the
        files stay, and the next attempt or the next start of the run renames them.

    Raises:
        DiskFull: the disk has no room for it. OSError: the disk did not take it; nothing is left behind.
        UserError: a weight is NaN or infinite.
    """
    target = _place(run_folder, step)
    existing = read_checkpoint(target)
    if existing is not None and existing.resumable:
        return lambda: existing
    temporary = temporary_name(target)
    if is_whole(temporary):  # an earlier attempt wrote it, and only the rename failed
        return partial(_name, temporary, target)
    check_finite(trainable, step)
    target.parent.mkdir(exist_ok=True)  # but not the run's folder: if its disk is gone, the path is on another disk
    require_space(target.parent, trainable.checkpoint_bytes(ema is not None), f"The checkpoint of step {step:,}")
    clear(temporary)
    pool = ChecksumPool()
    try:
        with trainable.weights.whole_weights():
            write_files(temporary, pool, trainable, ema, optimizer, scaler)
    except BaseException as error:
        pool.close()
        clear(temporary)
        if isinstance(error, SafetensorError):
            raise as_os_error(error) from error
        raise
    facts = {**about, "step": step, "images_seen": images_seen, "has_ema": ema is not None, "app": VERSION}
    return partial(finish_writing, temporary, target, pool, facts)


def lacks_only_its_name(run_folder: Path, step: int) -> bool:
    """Whether this process has written the checkpoint of a step, but could not rename it."""
    return is_whole(temporary_name(_place(run_folder, step)))


def _place(run_folder: Path, step: int) -> Path:
    return run_folder / "checkpoints" / f"step-{step:06d}"


def finish_writing(temporary: Path, target: Path, pool: ChecksumPool, about: dict[str, Any]) -> Checkpoint:
    """Flush everything, write checkpoint.json last, then rename the folder."""
    try:
        with pool:
            description = {**about, **describe_files(temporary, pool.checksums())}
        atomic_write_text(
            temporary / DESCRIPTION, json.dumps(description | {"seal": description_checksum(description)}, indent=2)
        )
        for folder in [path for path in temporary.rglob("*") if path.is_dir()]:
            flush_folder(folder)
    except BaseException:
        clear(temporary)
        raise
    return _name(temporary, target)


def _name(temporary: Path, target: Path) -> Checkpoint:
    """Rename a whole checkpoint, which is kept under its temporary name if that fails. Returns it as it reads back."""
    give_name(temporary, target)
    saved = read_checkpoint(target)
    if saved is None:
        raise OSError(errno.EIO, "what was just written could not be read back", str(target))
    return saved


def write_files(
    folder: Path,
    pool: ChecksumPool,
    trainable: Trainable,
    ema: EMA | None,
    optimizer: torch.optim.Optimizer,
    scaler: dict[str, Any] | None,
) -> None:
    """Write all files but checkpoint.json, the largest first: its checksum is computed while others are written."""
    folder.mkdir()
    state_folder = folder / STATE
    state_folder.mkdir()
    tensors, plain = optimizer_to_tensors(optimizer)
    save_file(tensors, state_folder / "optimizer.safetensors")
    del tensors
    state = {"optimizer": plain, "scaler": scaler, "ema_step": ema.optimization_step if ema is not None else None}
    (state_folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    pool.add(state_folder)
    for written in trainable.save(folder):
        pool.add(written)
    if ema is not None:
        with ema_weights(ema, trainable.averaged):
            for written in trainable.save(folder, average=True):
                pool.add(written)


def check_finite(trainable: Trainable, step: int) -> None:
    """Raises UserError if a trained weight is NaN or infinite: such a state is useless."""
    trained, read = [p for p in trainable.parameters() if p.requires_grad], trainable.weights.read
    # A sum is read ten times as fast as each number is tested, and is finite only if all are (but it may overflow).
    sums = torch.stack([read([p])[0].sum() for p in trained])
    if not sums.isfinite().all() and not all(read([p])[0].isfinite().all() for p in trained):
        raise training_broke(step, "the weights contain NaN or infinity", "No good checkpoint was overwritten.")


def training_broke(step: int, symptom: str, kept: str) -> TrainingBroke:
    """The error of a run whose loss or weights are NaN or infinite.

    Args:
        symptom: a clause; ``kept``: a sentence about what is saved.
    """
    return TrainingBroke(
        step,
        f"Training broke at step {step:,}: {symptom}.",
        f"The learning rate is too high for this dataset, or the precision is too low. {kept}",
        "Resume with half the learning rate from a checkpoint well before that step, or in fp32 or bf16 (Resume with "
        "other settings, on the Train tab).",
    )


def load_training_state(
    checkpoint: Checkpoint, trainable: Trainable, ema: EMA | None, optimizer: torch.optim.Optimizer | None
) -> dict[str, Any] | None:
    """Load weights, optimizer (None: its state is reset) and average. Returns the state of the fp16 loss scale.

    Raises:
        UserError: a file is missing, damaged or of another net.
    """
    folder = checkpoint.folder
    try:
        with trainable.weights.whole_weights(changed=True):
            trainable.load(folder)
        state = json.loads((folder / STATE / "state.json").read_text(encoding="utf-8"))
        if optimizer is not None:
            tensors_to_optimizer(optimizer, load_file(folder / STATE / "optimizer.safetensors"), state["optimizer"])
        if ema is not None:
            averaged = trainable.averaged_tensors(folder)
            for shadow, name in zip(ema.shadow_params, ema_names(trainable.averaged), strict=True):
                shadow.copy_(averaged[name])
            ema.optimization_step = state["ema_step"]
    except Exception as error:
        if is_of_machine(error):
            raise  # the checkpoint is whole
        raise UserError(
            f"The checkpoint of step {checkpoint.step:,} cannot be resumed.",
            f"{type(error).__name__}: {str(error)[:300]}",
            f"Move {folder.name} out of the checkpoints folder; the run then resumes from the one before.",
        ) from error
    return state["scaler"]
