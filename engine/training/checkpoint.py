"""Checkpoints: usable weights and, apart from them, what a resume needs. Written under a temporary name, then renamed.

step-000500/
  checkpoint.json        step, images seen, condition, base, family, versions; sizes and checksums of all other files
  controlnet/            diffusers folder, fp32 (with ema: also controlnet_ema/)
  control_lora/          what has learnt of a Control-LoRA, fp32; controlnet/ is the same with the base put in
  base_decoder/          the UNet's decoder, fp32, where it has learnt, too (sd_locked off)
  training_state/        optimizer.safetensors, state.json
  starred                empty; there where the owner wants to keep this checkpoint
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engine.disk.durable import ChecksumPool, atomic_write_text, flush_folder
from engine.disk.space import require_space
from engine.errors import UserError
from engine.machine.errors import as_os_error
from engine.nets.controlnet_files import WEIGHTS
from engine.nets.ema import averaged_names, averaged_weights
from engine.nets.lora import put_back, save_factors, save_net, thin_layers
from engine.runs.checkpoints import (
    AVERAGED_FACTORS,
    DECODER,
    DESCRIPTION,
    FACTORS,
    STAR,
    STATE,
    Checkpoint,
    describe_files,
    read_checkpoint,
    remove,
    seal,
    temporary_name,
)
from engine.version import VERSION

FREE_SPACE_MARGIN = 64 * 2**20
DEEPER = "|"  # between the levels of a nested state


def optimizer_to_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimizer's state as named tensors ("0.exp_avg") and plain values (the rest).

    The 8-bit optimizers of bitsandbytes keep theirs one level deeper: "0.quant_state|state1". On a processor all
    weights share one table of theirs, which a file of safetensors may not: each gets a copy (1 KB).
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
                put(f"{name}{DEEPER}{inner}", entry)
        else:
            plain[name] = value

    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            put(f"{index}.{name}", value)
    return tensors, plain


def tensors_to_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], plain: dict[str, Any]
) -> None:
    """The way back; the groups stay as the config made them."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**plain, **tensors}.items():
        index, path = key.split(".", 1)
        *outer, name = path.split(DEEPER)
        place = state.setdefault(int(index), {})
        for level in outer:
            place = place.setdefault(level, {})
        place[name] = (
            value.clone() if isinstance(value, torch.Tensor) else value
        )  # not a part of the file: see start.py
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def bytes_needed(controlnet: torch.nn.Module, ema: bool) -> int:
    """Upper estimate of one checkpoint: fp32 weights, two Adam moments, and the average where there is one."""
    weights = sum(p.numel() for p in controlnet.parameters()) * 4
    learning = sum(p.numel() for p in controlnet.parameters() if p.requires_grad) * 4
    copies = 2 if ema else 1
    factors = copies * learning if thin_layers(controlnet) else 0
    return weights * copies + factors + 2 * learning + FREE_SPACE_MARGIN


def stage_checkpoint(
    run_folder: Path,
    step: int,
    images_seen: int,
    controlnet: Any,
    ema: Any | None,
    optimizer: torch.optim.Optimizer,
    scaler: dict[str, Any] | None,
    about: dict[str, Any],
    decoder: torch.nn.Module | None = None,
) -> Callable[[], Checkpoint]:
    """Write the files of a checkpoint; one of the same step that is whole is left as it is.

    What is saved may change from now on: the files hold it. That is as far as training has to wait.

    Args:
        controlnet: a diffusers ControlNetModel, fp32, or one that ``slim`` changed.
        ema: a diffusers EMAModel, or None.
        scaler: state of the fp16 loss scaler, or None.
        about: plain facts that travel with it (condition, base, family ...).
        decoder: the UNet's, where it learns.

    Returns:
        What waits until the disk has all of it, gives it its name, and returns it. To be called once, in any thread;
        it raises OSError where the disk did not take it.

    Raises:
        DiskFull: the disk has no room for it. OSError: the disk did not take it; nothing is left behind.
        UserError: the weights are not numbers any more.
    """
    target = run_folder / "checkpoints" / f"step-{step:06d}"
    existing = read_checkpoint(target)
    if existing is not None and existing.resumable:
        return lambda: existing
    _demand_numbers(controlnet, decoder, step)
    target.parent.mkdir(exist_ok=True)  # not the run's folder: where its disk is gone, the place is another disk's
    needed = bytes_needed(controlnet, ema is not None) + (bytes_needed(decoder, False) if decoder is not None else 0)
    require_space(target.parent, needed, f"The checkpoint of step {step:,}")
    temporary = temporary_name(target)
    shutil.rmtree(temporary, ignore_errors=True)
    pool = ChecksumPool()
    try:
        _write(temporary, pool, controlnet, ema, optimizer, scaler, decoder)
    except BaseException as error:
        pool.close()
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, SafetensorError):
            raise as_os_error(error) from error
        raise
    facts = {**about, "step": step, "images_seen": images_seen, "has_ema": ema is not None, "app": VERSION}
    return partial(_finish, temporary, target, pool, facts)


def _finish(temporary: Path, target: Path, pool: ChecksumPool, about: dict[str, Any]) -> Checkpoint:
    """Everything flushed first, checkpoint.json last, and then the name."""
    try:
        with pool:
            description = {**about, **describe_files(temporary, pool.checksums())}
        atomic_write_text(temporary / DESCRIPTION, json.dumps(description | {"seal": seal(description)}, indent=2))
        for folder in [path for path in temporary.rglob("*") if path.is_dir()]:
            flush_folder(folder)
        if target.exists():
            starred = (target / STAR).is_file()
            remove(target)
            if starred:
                (temporary / STAR).touch()
        os.replace(temporary, target)
        flush_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    saved = read_checkpoint(target)
    if saved is None:
        raise OSError(errno.EIO, "what was just written does not read back", str(target))
    return saved


def _write(
    folder: Path,
    pool: ChecksumPool,
    controlnet: Any,
    ema: Any | None,
    optimizer: torch.optim.Optimizer,
    scaler: dict[str, Any] | None,
    decoder: torch.nn.Module | None,
) -> None:
    """All files but checkpoint.json. The largest first: its checksum is made while the others are written."""
    folder.mkdir()
    state_folder = folder / STATE
    state_folder.mkdir()
    tensors, plain = optimizer_to_tensors(optimizer)
    save_file(tensors, state_folder / "optimizer.safetensors")
    del tensors
    state = {"optimizer": plain, "scaler": scaler, "ema_step": ema.optimization_step if ema is not None else None}
    (state_folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    pool.add(state_folder)
    thin = bool(thin_layers(controlnet))
    save_net(controlnet, folder / "controlnet")
    pool.add(folder / "controlnet")
    if thin:
        save_factors(controlnet, folder / FACTORS)
        pool.add(folder / FACTORS)
    if decoder is not None:
        (folder / DECODER).parent.mkdir()
        save_file({name: weight.contiguous() for name, weight in decoder.state_dict().items()}, folder / DECODER)
        pool.add(folder / DECODER)
    if ema is not None:
        with averaged_weights(ema, controlnet):
            save_net(controlnet, folder / "controlnet_ema")
            pool.add(folder / "controlnet_ema")
            if thin:
                save_factors(controlnet, folder / AVERAGED_FACTORS)
                pool.add(folder / AVERAGED_FACTORS)


def _demand_numbers(controlnet: Any, decoder: torch.nn.Module | None, step: int) -> None:
    """Raises UserError where a weight is NaN or infinite: such a state is of no use to anybody."""
    nets = [net for net in (controlnet, decoder) if net is not None]
    learnt = [p.detach() for net in nets for p in net.parameters() if p.requires_grad]  # fp8 cannot be asked
    # A sum is read ten times as fast as each number is asked, and is finite only where all are (it may overflow).
    if not torch.stack([p.sum() for p in learnt]).isfinite().all() and not all(p.isfinite().all() for p in learnt):
        raise UserError(
            f"Training broke at step {step:,}: the weights are not numbers any more.",
            "The learning rate is too high for this set, or the precision too low. Nothing was saved over good work.",
            "Halve the learning rate (or choose fp32 or bf16) and resume from the last checkpoint.",
        )


def load_training_state(
    checkpoint: Checkpoint,
    controlnet: Any,
    ema: Any | None,
    optimizer: torch.optim.Optimizer | None,
    decoder: torch.nn.Module | None = None,
) -> dict[str, Any] | None:
    """Put weights, optimizer (None: it starts afresh) and average back; returns the scaler's state.

    Raises:
        UserError: a file is missing, damaged or of another net.
    """
    try:
        thin = bool(thin_layers(controlnet))
        put_back(controlnet, load_file(checkpoint.folder / (FACTORS if thin else f"controlnet/{WEIGHTS}")))
        if decoder is not None:
            decoder.load_state_dict(load_file(checkpoint.folder / DECODER))
        state = json.loads((checkpoint.folder / "training_state" / "state.json").read_text(encoding="utf-8"))
        if optimizer is not None:
            tensors = load_file(checkpoint.folder / "training_state" / "optimizer.safetensors")
            tensors_to_optimizer(optimizer, tensors, state["optimizer"])
        if ema is not None:
            averaged = load_file(checkpoint.folder / (AVERAGED_FACTORS if thin else f"controlnet_ema/{WEIGHTS}"))
            for shadow, name in zip(ema.shadow_params, averaged_names(controlnet), strict=True):
                shadow.copy_(averaged[name])
            ema.optimization_step = state["ema_step"]
    except Exception as error:
        raise UserError(
            f"The checkpoint of step {checkpoint.step:,} cannot be resumed.",
            f"{type(error).__name__}: {str(error)[:300]}",
            f"Move {checkpoint.folder.name} out of the checkpoints folder; the run then resumes from the one before.",
        ) from error
    return state["scaler"]
