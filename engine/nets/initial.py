"""The ControlNet that a run starts from: its newest checkpoint, a file, or a copy of the base.

The encoder of the control image is the only part that is not copied from the base. With PyTorch's default
initialization, what depends on the control image shrinks at each of its seven layers while the random biases stay: at
its end, on the demo's outlines, the differences between images are a thousandth of what they all share, and the net has
to amplify them before it can follow the control image. With He initialization (He et al. 2015, arXiv 1502.01852) and
zero biases the control image comes through: the demo follows it after about 100 steps instead of 150 to 400
(benchmarks/hint_start.py, docs/demo.md). The last layer stays zero, as in the ControlNet paper (Zhang et al. 2023,
arXiv 2302.05543): training starts from exactly what the base draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from engine.config import RunConfig
from engine.errors import UserError
from engine.families.layers import Layers
from engine.families.registry import Family
from engine.machine.net_lock import NET_LOCK
from engine.nets.controlnet_files import read_config
from engine.nets.lora import shared_with, subtract_factors, to_control_lora, to_low_rank_over_itself
from engine.nets.meta_device import build_with_meta_weights, materialize
from engine.nets.union_mode import use_mode
from engine.runs.checkpoints import FACTORS, list_checkpoints


def initial_controlnet(
    run_folder: Path,
    config: RunConfig,
    family: Family,
    base: str,
    denoiser: Any,
    rank: int = 0,
    blocks: int = 0,
    device: torch.device | None = None,
    over_start: torch.dtype | None = None,
) -> Any:
    """A ControlNet in fp32 on the CPU, except weights that belong to the base.

    Args:
        rank: of a Control-LoRA; 0: the whole net is trained.
        blocks: of a transformer that a new one copies; 0: the usual number.
        device: where to decompose weights into low rank, if that is faster than where the denoiser is.
        over_start: the low rank is on top of the weights of the net that the run starts from, in this dtype on
            ``device``; None: on top of the base's.

    Raises:
        UserError: the file that it starts from is missing, broken, or for another base.
    """
    from engine.nets.importing import copied_weights, open_controlnet
    from engine.nets.outputs import empty_net

    # A denoiser in half precision is a rounded copy of the base. Rounding to bf16 changes most weights, altogether by
    # as much as the first ten steps of AdamW at 1e-5, and a Control-LoRA would spend its rank on that difference. So
    # what the net begins with, or differs from, is read from the base's file.
    rounded = denoiser.dtype != torch.float32
    saved = [checkpoint for checkpoint in list_checkpoints(run_folder) if checkpoint.resumable]
    trained = False
    if saved:  # resuming loads its weights afterwards; a file that the run started from may be gone by now
        folder = saved[-1].folder / "controlnet"
        shares = rank and not over_start
        controlnet = empty_net(read_config(folder)) if shares else in_own_memory(family.load_controlnet(folder))
        if over_start:  # the weights beneath the factors, exact in half precision
            subtract_factors(controlnet, load_file(saved[-1].folder / FACTORS))
            take_if_same(controlnet, config.model.controlnet, family, base)
    elif config.model.controlnet:
        controlnet, trained = in_own_memory(open_controlnet(config.model.controlnet, family, base)), True
        require_blocks(family.facts.blocks_of(controlnet.config), blocks)
        use_mode(controlnet, family.facts.control_files, config.model.union_mode)
    else:
        torch.manual_seed(config.train.seed)  # the encoder of the control image is random: the same for the same seed
        if why := family.facts.why_not_blocks(family.denoiser_config(base), blocks):
            raise UserError("The ControlNet cannot be created.", why, "Change ControlNet blocks, under All settings.")
        # The weights that a Control-LoRA shares are built on the meta device: the fp32 net is never in RAM as a whole.
        shared = shared_with(denoiser, rank, family.layers) if rank else None
        new = partial(family.new_controlnet, denoiser, blocks)
        with NET_LOCK:
            controlnet = build_with_meta_weights(new, shared) if shared else new()
        if rounded:
            copy_weights(controlnet, copied_weights(family, base))
        if config.model.hint_start == "he":
            start_reading_control(controlnet, denoiser, family.layers)
    if rank:
        torch.manual_seed(config.train.seed + 1)
        if over_start:
            to_low_rank_over_itself(controlnet, rank, family.layers, over_start, device)
            return controlnet
        exact = copied_weights(family, base) if trained and rounded else None
        place = torch.get_default_device()
        to_control_lora(controlnet, denoiser, rank, family.layers, trained, device, exact, factors_on=place)
        if saved:
            materialize(controlnet)
    return controlnet


@torch.no_grad()
def take_if_same(controlnet: Any, start: str, family: Family, base: str) -> None:
    """Take the weights of the file that a run started from if it is still there and differs by rounding alone."""
    from engine.nets.importing import open_controlnet

    try:
        weights = open_controlnet(start, family, base).state_dict()
    except UserError:
        return
    for name, parameter in controlnet.state_dict().items():
        exact = weights.get(name)
        if (
            exact is not None
            and exact.shape == parameter.shape
            and torch.allclose(exact, parameter, rtol=1e-4, atol=1e-6)
        ):
            parameter.copy_(exact)


def require_blocks(found: int, wanted: int) -> None:
    """Refuse a net to start from that has another number of blocks than the settings say.

    Args:
        found: 0: it is none of a transformer.
        wanted: 0: any.

    Raises:
        UserError: they differ.
    """
    if wanted and wanted != found:
        raise UserError(
            "The ControlNet to start from has a different number of blocks than the settings say.",
            f"It has {found or 'none'}, and ControlNet blocks is set to {wanted}.",
            "Set ControlNet blocks to 0: a run that starts from a ControlNet keeps that net's number.",
        )


@torch.no_grad()
def copy_weights(controlnet: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights (fp32, by name) into a net, one at a time, so that memory does not hold them twice.

    Names that the net does not have are left out, as they are when a base is loaded.
    """
    for name, parameter in controlnet.state_dict().items():
        if name in weights and not parameter.is_meta:
            parameter.copy_(weights[name])


def start_reading_control(controlnet: Any, denoiser: Any, layers: Layers) -> None:
    """Let the control image through from the first step, in place. The net's outputs stay zero.

    A net that reads latents of it embeds them as the denoiser embeds noisy latents, so that the copied layers know what
    they get. diffusers starts with zeros; on the demo's transformer a net then follows 50 to 100 steps later
    (docs/demo.md).
    """
    if layers.control_encoder:
        he_initialization(controlnet.get_submodule(layers.control_encoder))
    elif layers.control_embedder:
        own, of_base = (
            net.get_submodule(name) for net, name in zip((controlnet, denoiser), layers.control_embedder, strict=True)
        )
        with torch.no_grad():
            own.weight.copy_(of_base.weight)
            own.bias.copy_(of_base.bias)


def he_initialization(encoder: Any) -> None:
    """Initialize all layers of the control image's encoder but the last, in place, from the global random state."""
    *hidden, _ = (layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d))
    for layer in hidden:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


def in_own_memory(net: Any) -> Any:
    """Move a net's weights from the loaded file's buffer into memory that torch allocates.

    In the file's buffer a weight may begin at any eighth byte, and some kernels then add up in another order: a resumed
    run would differ in the last bit from an uninterrupted one. Also, Windows does not release a file whose buffer is in
    use.
    """
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data = tensor.data.clone()
    return net
