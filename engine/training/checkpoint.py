"""Checkpoints: usable weights and, apart from them, what a resume needs. Written under a temporary name, then renamed.

step-000500/
  checkpoint.json        step, images seen, condition, base, family, versions
  controlnet/            diffusers folder, fp32 (with ema: also controlnet_ema/)
  control_lora/          what has learnt of a Control-LoRA, fp32; controlnet/ is the same with the base put in
  base_decoder/          the UNet's decoder, fp32, where it has learnt, too (sd_locked off)
  training_state/        optimizer.safetensors, state.json
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.controlnet_files import WEIGHTS
from engine.errors import UserError
from engine.training.checkpoint_files import (
    AVERAGED_FACTORS,
    DECODER,
    DESCRIPTION,
    FACTORS,
    TEMPORARY,
    Checkpoint,
    read_checkpoint,
)
from engine.training.ema import averaged_names, averaged_weights
from engine.training.low_rank import put_back, save_factors, save_net, thin_layers
from engine.version import VERSION

FREE_SPACE_MARGIN = 64 * 2**20


def optimizer_to_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimizer's state as named tensors ("0.exp_avg") and plain values (the rest)."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                plain[f"{index}.{name}"] = value
    return tensors, plain


def tensors_to_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], plain: dict[str, Any]
) -> None:
    """The way back; the groups stay as the config made them."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**plain, **tensors}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def bytes_needed(controlnet: torch.nn.Module, ema: bool) -> int:
    """Upper estimate of one checkpoint: fp32 weights, two Adam moments, and the average where there is one."""
    weights = sum(p.numel() for p in controlnet.parameters()) * 4
    learning = sum(p.numel() for p in controlnet.parameters() if p.requires_grad) * 4
    copies = 2 if ema else 1
    factors = copies * learning if thin_layers(controlnet) else 0
    return weights * copies + factors + 2 * learning + FREE_SPACE_MARGIN


def save_checkpoint(
    run_folder: Path,
    step: int,
    images_seen: int,
    controlnet: Any,
    ema: Any | None,
    optimizer: torch.optim.Optimizer,
    scaler: dict[str, Any] | None,
    about: dict[str, Any],
    decoder: torch.nn.Module | None = None,
) -> Checkpoint:
    """Write a checkpoint and return it; one of the same step that is whole is left as it is.

    Args:
        controlnet: a diffusers ControlNetModel, fp32, or one that ``slim`` changed.
        ema: a diffusers EMAModel, or None.
        scaler: state of the fp16 loss scaler, or None.
        about: plain facts that travel with it (condition, base, family ...).
        decoder: the UNet's, where it learns.

    Raises:
        UserError: the disk has no room for it.
    """
    target = run_folder / "checkpoints" / f"step-{step:06d}"
    existing = read_checkpoint(target)
    if existing is not None and existing.resumable:
        return existing
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = bytes_needed(controlnet, ema is not None) + (bytes_needed(decoder, False) if decoder is not None else 0)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise UserError(
            f"The checkpoint of step {step:,} was not written.",
            f"It needs {needed / 2**30:.1f} GiB and the disk has {free / 2**30:.1f} GiB left.",
            "Free some space and resume; the last checkpoint is whole.",
        )
    temporary = target.with_name(TEMPORARY + target.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    thin = bool(thin_layers(controlnet))
    save_net(controlnet, temporary / "controlnet")
    if thin:
        save_factors(controlnet, temporary / FACTORS)
    if decoder is not None:
        (temporary / DECODER).parent.mkdir()
        save_file({name: weight.contiguous() for name, weight in decoder.state_dict().items()}, temporary / DECODER)
    if ema is not None:
        with averaged_weights(ema, controlnet):
            save_net(controlnet, temporary / "controlnet_ema")
            if thin:
                save_factors(controlnet, temporary / AVERAGED_FACTORS)
    tensors, plain = optimizer_to_tensors(optimizer)
    state_folder = temporary / "training_state"
    state_folder.mkdir()
    save_file(tensors, state_folder / "optimizer.safetensors")
    state = {"optimizer": plain, "scaler": scaler, "ema_step": ema.optimization_step if ema is not None else None}
    (state_folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    files = {p.relative_to(temporary).as_posix(): p.stat().st_size for p in temporary.rglob("*") if p.is_file()}
    description = {
        **about, "step": step, "images_seen": images_seen, "has_ema": ema is not None, "app": VERSION, "files": files,
    }  # fmt: skip
    (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2), encoding="utf-8")
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    saved = read_checkpoint(target)
    assert saved is not None, "a checkpoint that was just written reads back"
    return saved


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
