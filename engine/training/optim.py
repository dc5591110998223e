"""The optimizer and the learning rate, from the config."""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch

from engine.config import OptimConfig
from engine.errors import UserError
from engine.machine.capabilities import TITLES, capabilities, maker_of
from engine.machine.optional import has_processor_kernels
from engine.training.adafactor import Adafactor

RATE_SHARE = "rate_share"
"""Entry of a parameter group with its share of the learning rate; without it 1."""


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups in a stable order: matrices and kernels with weight decay, biases and norms without.

    A net with ``rate_shares`` has such groups for each share of the learning rate, those at the whole rate first.
    """
    shares: dict[str, float] = getattr(model, "rate_shares", {})
    groups = []
    for share in dict.fromkeys([1.0, *shares.values()]):
        trained = [p for name, p in model.named_parameters() if p.requires_grad and shares.get(name, 1.0) == share]
        own: dict[str, Any] = {RATE_SHARE: share} if share != 1 else {}
        groups += [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay, **own},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0, **own},
        ]
    return groups


def build_optimizer(model: torch.nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that the config names.

    adamw: Loshchilov and Hutter 2017, arXiv 1711.05101, fused into one kernel where the device has it. 8-bit: Dettmers
    et al. 2022, arXiv 2110.02861. adafactor: Shazeer and Stern 2018, arXiv 1804.04235, with the config's learning rate.

    Raises:
        UserError: it needs a package or a graphics card that this machine does not have.
    """
    groups = parameter_groups(model, config.weight_decay)
    betas, device = (config.beta1, config.beta2), next(model.parameters()).device
    if config.optimizer == "adafactor":
        return Adafactor(groups, lr=config.learning_rate)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=betas, fused=capabilities(device.type).fused_adamw
        )
    kinds = {"adamw8bit": "AdamW8bit", "paged_adamw8bit": "PagedAdamW8bit"}
    paged = config.optimizer.startswith("paged")
    return getattr(_bitsandbytes(device, paged), kinds[config.optimizer])(groups, lr=config.learning_rate, betas=betas)


def _bitsandbytes(device: torch.device, paged: bool) -> Any:
    """The module ``bitsandbytes.optim``."""
    able, maker = capabilities(device.type), maker_of(device.type)
    runs = able.paged_optimizers if paged else able.bitsandbytes
    if not runs or (maker == "processor" and not has_processor_kernels()):
        raise UserError(
            "The 8-bit optimizer cannot be used.",
            "It runs only on NVIDIA graphics cards (not paged, also on those of AMD and Intel, and on processors from "
            f"bitsandbytes 0.50), and this run uses {TITLES[maker]}.",
            "Choose the optimizer adamw, or adafactor to save memory.",
        )
    try:
        return importlib.import_module("bitsandbytes").optim
    except Exception as error:  # loading it looks for CUDA, which fails in many ways
        raise UserError(
            "The 8-bit optimizer cannot be used.",
            f"The package bitsandbytes is not installed or cannot be loaded ({type(error).__name__}).",
            "Install it (pip install bitsandbytes) and start again, or choose the optimizer adamw or adafactor.",
        ) from error


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of step ``step`` (from 0) of ``steps``. A pure function: there is no state to resume."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    if config.schedule == "linear":
        return config.learning_rate * max(0.0, 1 - done)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def updated_parameters(optimizer: torch.optim.Optimizer) -> set[torch.nn.Parameter]:
    """The parameters that an optimizer had updated when it failed in the middle of a step.

    Their state counts one step more than that of the others.
    """
    counts = {
        parameter: int(optimizer.state[parameter].get("step", 0)) if parameter in optimizer.state else 0
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    newest = max(counts.values())
    if min(counts.values()) == newest:
        return set()
    return {parameter for parameter, count in counts.items() if count == newest}


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value * group.get(RATE_SHARE, 1.0)
