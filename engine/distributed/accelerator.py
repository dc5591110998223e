"""accelerate's Accelerator for a run, and the strategy that goes with it: one process, DDP, FSDP or DeepSpeed.

How a net is sharded comes from accelerate's own configuration; everything that changes what is learned comes from the
run's settings.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import PartialState
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers.integrations import unset_hf_deepspeed_config

from engine.config import RunConfig
from engine.distributed import group, join
from engine.distributed.ddp import DDP, DDP_SETTINGS
from engine.distributed.deepspeed import DeepSpeed
from engine.distributed.fsdp import FSDP
from engine.distributed.optimizer_in_backward import OptimizerInBackward, check_optimizer_in_backward
from engine.distributed.parallel import Parallel
from engine.errors import UserError
from engine.jobs.events import Message
from engine.jobs.runner import Emit
from engine.tuning.facts import facts_of

IGNORED_IN_DEEPSPEED = ("optimizer", "scheduler", "fp16", "amp", "torch_autocast")
"""Sections of a DeepSpeed configuration that the run's settings replace."""


def accelerator_for(
    config: RunConfig, dtype: torch.dtype, on_processor: bool, emit: Emit
) -> tuple[Accelerator, type[Parallel]]:
    """The Accelerator of a run, and how its processes share a step.

    Half precision is our own (engine/nets/master_weights.py), or FSDP's and DeepSpeed's: autocast would cast every
    weight at every use.

    Raises:
        UserError: the run cannot be sharded, or cannot update its weights in the backward pass.
    """
    placed = not config.optim.offload  # else the optimizer's state would pass through the card on its way to RAM
    settings: dict[str, Any] = {"mixed_precision": "no", "cpu": on_processor, "device_placement": placed}
    alone = group.current().world_size == 1
    if on_processor and not alone:
        PartialState().distributed_type = DistributedType.MULTI_CPU  # undo what an earlier run has set
    if config.optim.in_backward:
        check_optimizer_in_backward(config, dtype, group.current().world_size)
        return Accelerator(**settings), OptimizerInBackward
    if not alone and join.asked_for(join.FSDP):
        check_shardable(config, dtype, "FSDP")
        return _with_fsdp(settings, dtype), FSDP
    if not alone and join.asked_for(join.DEEPSPEED):
        check_shardable(config, dtype, "DeepSpeed")
        return _with_deepspeed(settings, config, dtype, emit), DeepSpeed
    return Accelerator(**settings, kwargs_handlers=[DDP_SETTINGS]), Parallel if alone else DDP


def check_shardable(config: RunConfig, dtype: torch.dtype, by: str) -> None:
    """Check that FSDP or DeepSpeed can shard what the run's settings ask for.

    Args:
        dtype: what all processes compute in.

    Raises:
        UserError: it cannot; names every reason at once.
    """
    optim, wanted = config.optim, config.train.precision
    instead = "" if wanted == "fp16" else f"; {wanted} was requested, but at least one card does not support it"
    settings = {
        "an average of the weights (optim.ema_decay above 0)": optim.ema_decay > 0,
        f"the optimizer {optim.optimizer} (adamw can be sharded)": optim.optimizer != "adamw",
        "the optimizer in the computer's memory (optim.offload)": optim.offload,
        f"fp16 (only bf16 and fp32 can be sharded{instead})": dtype == torch.float16,
    }
    reasons = [*facts_of(config).not_sharded, *(what for what, is_so in settings.items() if is_so)]
    if reasons:
        raise UserError(
            f"This run cannot be sharded among cards by {by}.",
            f"The run would have {'; '.join(reasons)}.",
            f"Change these settings, or use a configuration of accelerate without {by}: each card then holds the "
            "whole net.",
        )


def _with_fsdp(settings: dict[str, Any], dtype: torch.dtype) -> Accelerator:
    plugin = FullyShardedDataParallelPlugin()  # reads accelerate's own settings
    half = dtype if dtype != torch.float32 else None
    plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    plugin.cpu_ram_efficient_loading = False  # every process has read the net by itself
    accelerator = Accelerator(**settings, fsdp_plugin=plugin)
    if settings["cpu"]:
        _shard_on_processors(accelerator, DistributedType.FSDP)
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def _shard_on_processors(accelerator: Accelerator, kind: DistributedType) -> None:
    """accelerate shards nets on cards only. torch and DeepSpeed can on processors, too, and the tests run there."""
    accelerator.state.distributed_type = PartialState().distributed_type = kind


def _with_deepspeed(settings: dict[str, Any], config: RunConfig, dtype: torch.dtype, emit: Emit) -> Accelerator:
    """From DeepSpeed's configuration come the stage, offload and buckets; everything else comes from the run."""
    try:
        plugin = DeepSpeedPlugin()  # reads accelerate's own settings, and the file that they may name
    except (OSError, ValueError) as error:
        raise UserError(
            "DeepSpeed's configuration cannot be used.",
            f"{type(error).__name__}: {str(error)[:300]}",
            "Correct it (see docs/deepspeed.yaml for one that works), or start with docs/fsdp.yaml.",
        ) from error
    if plugin.zero_stage not in (2, 3):
        raise UserError(
            f"DeepSpeed is set up for stage {plugin.zero_stage} of ZeRO.",
            "Nets are sharded by its stages 2 (gradients and optimizer) and 3 (the weights, too).",
            "Write zero_stage: 2 into accelerate's configuration (see docs/deepspeed.yaml).",
        )
    theirs = plugin.deepspeed_config
    ignored = [name for name in IGNORED_IN_DEEPSPEED if theirs.pop(name, None) is not None]
    if ignored:
        emit(Message(f"DeepSpeed's own settings for these are ignored and the run's are used: {', '.join(ignored)}."))
    train, count = config.train, group.current().world_size
    theirs |= {
        "gradient_accumulation_steps": 1,  # each micro-batch says whether it is the step's last
        "gradient_clipping": config.optim.max_grad_norm,
        "train_micro_batch_size_per_gpu": train.batch_size,
        "train_batch_size": train.batch_size * count,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_force_ds_cpu_optimizer": False,  # theirs needs a compiler; torch's works in RAM, too
    }
    accelerator = Accelerator(**settings, deepspeed_plugin=plugin)
    if settings["cpu"]:
        _shard_on_processors(accelerator, DistributedType.DEEPSPEED)
        accelerator.state.deepspeed_plugins = plugin
        plugin.set_mixed_precision("no")
        plugin.select(_from_accelerator_state=True)
    unset_hf_deepspeed_config()  # else transformers would shard every text encoder that it loads
    return accelerator
