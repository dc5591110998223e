"""accelerate as a run needs it: one process, each with the whole net, or the net divided by FSDP or DeepSpeed.

How a net is divided comes from accelerate's own configuration; what is learnt, and how, comes from the run's settings.
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
from engine.distributed.ddp import DDP_SETTINGS, Sharing
from engine.distributed.deepspeed import Zero
from engine.distributed.fsdp import Divided
from engine.errors import UserError
from engine.jobs.events import Message
from engine.jobs.runner import Emit

OWN_IN_DEEPSPEED = ("optimizer", "scheduler", "fp16", "amp", "torch_autocast")
"""Parts of a DeepSpeed configuration that the run's own settings decide."""


def accelerator_for(
    config: RunConfig, dtype: torch.dtype, on_processor: bool, emit: Emit
) -> tuple[Accelerator, type[Sharing]]:
    """accelerate as a run needs it, and how its processes share the work.

    Half precision is ours (engine/nets/master_weights.py), or that of what divides the net: autocast would cast every
    weight at every use.

    Raises:
        UserError: the run cannot be divided.
    """
    placed = not config.optim.offload  # else the optimizer's memory would pass through the card on its way to RAM
    settings: dict[str, Any] = {"mixed_precision": "no", "cpu": on_processor, "device_placement": placed}
    alone = group.current().count == 1
    if on_processor and not alone:
        PartialState().distributed_type = DistributedType.MULTI_CPU  # what an earlier run has made of it is over
    if not alone and join.asked_for(join.FSDP):
        demand_fitting(config, "FSDP")
        return _with_fsdp(settings, dtype), Divided
    if not alone and join.asked_for(join.DEEPSPEED):
        demand_fitting(config, "DeepSpeed")
        return _with_deepspeed(settings, config, dtype, emit), Zero
    return Accelerator(**settings, kwargs_handlers=[DDP_SETTINGS]), Sharing


def demand_fitting(config: RunConfig, by: str) -> None:
    """Before the start.

    Raises:
        UserError: the run asks for something that cannot be divided; all that there is, at once.
    """
    objective, optim, train = config.objective, config.optim, config.train
    wrong = {
        "a Control-LoRA (its layers are the base's)": config.model.control_lora_rank > 0,
        "an average of the weights (optim.ema_decay above 0)": optim.ema_decay > 0,
        f"the optimizer {optim.optimizer} (adamw can be divided)": optim.optimizer != "adamw",
        "the optimizer in the computer's memory (optim.offload)": optim.offload,
        "a base that learns, too (objective.sd_locked off)": not objective.sd_locked,
        "fp16 (bf16 and fp32 can be)": train.precision == "fp16",
    }
    if any(wrong.values()):
        raise UserError(
            f"This run cannot be divided among cards by {by}.",
            f"Its settings ask for {'; '.join(what for what, is_so in wrong.items() if is_so)}.",
            f"Change these settings, or start with a configuration of accelerate's without {by}: each card then holds "
            "the whole net.",
        )


def _with_fsdp(settings: dict[str, Any], dtype: torch.dtype) -> Accelerator:
    plugin = FullyShardedDataParallelPlugin()  # reads accelerate's own settings
    half = dtype if dtype != torch.float32 else None
    plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    plugin.cpu_ram_efficient_loading = False  # every process has read the net by itself
    accelerator = Accelerator(**settings, fsdp_plugin=plugin)
    if settings["cpu"]:
        _divide_on_processors(accelerator, DistributedType.FSDP)
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def _divide_on_processors(accelerator: Accelerator, kind: DistributedType) -> None:
    """accelerate divides nets on cards only. torch and DeepSpeed do on processors, too, and the tests run there."""
    accelerator.state.distributed_type = PartialState().distributed_type = kind


def _with_deepspeed(settings: dict[str, Any], config: RunConfig, dtype: torch.dtype, emit: Emit) -> Accelerator:
    """Of DeepSpeed's configuration the stage, offload and buckets hold; the rest is the run's."""
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
            "Nets are divided by its stages 2 (gradients and optimizer) and 3 (the weights, too).",
            "Write zero_stage: 2 into accelerate's configuration (see docs/deepspeed.yaml).",
        )
    theirs = plugin.deepspeed_config
    ignored = [name for name in OWN_IN_DEEPSPEED if theirs.pop(name, None) is not None]
    if ignored:
        emit(Message(f"Of DeepSpeed's configuration this is not used, the run's settings are: {', '.join(ignored)}."))
    train, count = config.train, group.current().count
    theirs |= {
        "gradient_accumulation_steps": 1,  # each micro-batch says itself whether it is a step's last
        "gradient_clipping": config.optim.max_grad_norm,
        "train_micro_batch_size_per_gpu": train.batch_size,
        "train_batch_size": train.batch_size * count,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_force_ds_cpu_optimizer": False,  # theirs has to be compiled; torch's does in RAM as well
    }
    accelerator = Accelerator(**settings, deepspeed_plugin=plugin)
    if settings["cpu"]:
        _divide_on_processors(accelerator, DistributedType.DEEPSPEED)
        accelerator.state.deepspeed_plugins = plugin
        plugin.set_mixed_precision("no")
        plugin.select(_from_accelerator_state=True)
    unset_hf_deepspeed_config()  # else transformers would divide every text encoder that it reads
    return accelerator
