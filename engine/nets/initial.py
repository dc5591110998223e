"""The ControlNet that a run begins with, or goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.config import RunConfig
from engine.families.registry import Family
from engine.nets.hint_init import he_start
from engine.nets.lora import slim
from engine.runs.checkpoints import list_checkpoints


def starting_controlnet(
    run_folder: Path, config: RunConfig, family: Family, base: str, unet: Any, device: torch.device | None = None
) -> Any:
    """From the newest checkpoint, from a file, or a copy of the base; fp32, on the CPU but for what is the UNet's.

    Args:
        device: to compute on, where that is faster than where the UNet is.

    Raises:
        UserError: the file that it starts from is not there, broken, or for another base.
    """
    saved = [checkpoint for checkpoint in list_checkpoints(run_folder) if checkpoint.resumable]
    moved = False
    if saved:  # its weights are put in by whoever resumes; a file that the run began with may be gone by now
        controlnet = in_own_memory(family.load_controlnet(saved[-1].folder / "controlnet"))
    elif config.model.controlnet:
        from engine.nets.importing import open_controlnet

        controlnet, moved = in_own_memory(open_controlnet(config.model.controlnet, family, base)), True
    else:
        torch.manual_seed(config.train.seed)  # the hint encoder starts random: the same for the same seed
        controlnet = family.new_controlnet(unet)
        if config.model.hint_start == "he":
            he_start(controlnet)
    if config.model.control_lora_rank:
        torch.manual_seed(config.train.seed + 1)
        slim(controlnet, unet, config.model.control_lora_rank, moved, device)
    return controlnet


def in_own_memory(net: Any) -> Any:
    """The net with weights that lie where torch puts new ones. As loaded they are parts of the file, in memory.

    There they may begin at any eighth byte, and some kernels then add up in another order: a resumed run would differ
    in the last bit from one that was never paused. And Windows lets go of no file of which parts are in use.
    """
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data = tensor.data.clone()
    return net
