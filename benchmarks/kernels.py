"""Kernels and memory traffic, counted at real shapes: what follows the backward pass, and a base in fp8
(docs/performance.md).

    python -m benchmarks.kernels [--families sd1 sdxl]

Counted, not measured: torch's operations on the meta device, which computes nothing. An operation reads and writes each
of its tensors once and is one kernel; a ``_foreach`` operation is as many as torch starts for its list
(ATen/native/cuda/MultiTensorApply.cuh). Views cost nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.optimization import Adafactor as TransformersAdafactor

from engine.config import OptimConfig
from engine.families.files import LAYOUTS
from engine.families.registry import by_name
from engine.nets.compact_weights import CompactMasterWeights
from engine.nets.ema import build_ema
from engine.nets.frozen_layers import quantize_base
from engine.training.optim import build_optimizer, parameter_groups

CARD = torch.device("meta")
CHUNK, BLOCKS = 65536, 320  # numbers for each block of a foreach kernel, and blocks in one launch
TENSORS = {1: 110, 2: 64, 3: 48, 4: 36}  # tensors in one launch, by the number of lists
FAMILIES = ("sd1", "sdxl")


@dataclass
class Traffic(TorchDispatchMode):
    """Counts kernels, and the bytes that they read and write."""

    kernels: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        schema = func._schema
        is_view = any(r.alias_info and not r.alias_info.is_write for r in schema.returns)
        if is_view or func in (torch.ops.aten.empty_like.default, torch.ops.aten.empty.memory_format):
            return output
        given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | (kwargs or {})
        changed = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write and a.name in given]
        if "grads" in changed and given.get("grad_scale") is None:
            changed.remove("grads")  # torch's fused Adam writes them only where it scales them
        only_written = {"out", "self"} if func.__name__.startswith(("copy_", "_foreach_copy_")) else {"out"}
        read = _tensors([value for name, value in given.items() if name not in only_written])
        written = _tensors([given[name] for name in changed] if changed else output)
        moved = _bytes(read) + _bytes(written)
        if moved:
            self.bytes += moved
            self.kernels += _launches(given) if func.__name__.startswith(("_foreach_", "_fused_")) else 1
        return output


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())


def _launches(given: dict[str, Any]) -> int:
    lists = [_tensors(value) for value in given.values() if isinstance(value, list | tuple) and _tensors(value)]
    lists = lists[: max(TENSORS)]  # the fused Adam has a list of step counts as well, one number each
    if any(one.shape != other.shape for many in lists[1:] for one, other in zip(lists[0], many, strict=True)):
        return len(lists[0])  # torch takes them one by one
    blocks = sum(-(-tensor.numel() // CHUNK) for tensor in lists[0])
    return max(-(-len(lists[0]) // TENSORS[len(lists)]), -(-blocks // BLOCKS))


def count(work: Callable[[], object]) -> Traffic:
    """The traffic of ``work``, which is called twice: the first time it may allocate its state."""
    work()
    with Traffic() as traffic:
        work()
    return traffic


def control_net(family: str) -> nn.Module:
    """The ControlNet of a family at its real shapes, without values, each weight with a gradient."""
    config = json.loads((LAYOUTS / family / "unet" / "config.json").read_text(encoding="utf-8"))
    with CARD:
        unet = UNet2DConditionModel.from_config(config)
        net: nn.Module = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    for parameter in net.parameters():
        parameter.grad = torch.empty_like(parameter)
    return net


def optimizers(net: nn.Module) -> dict[str, Callable[[], object]]:
    """What to count, by name."""
    theirs = TransformersAdafactor(
        parameter_groups(net, 0.01), lr=1e-5, scale_parameter=False, relative_step=False, warmup_init=False
    )
    ours = build_optimizer(net, OptimConfig(optimizer="adafactor"))
    average = build_ema(net, OptimConfig(ema_decay=0.999))
    assert average is not None
    average.optimization_step = 1000  # after the decay has risen
    return {
        "Adafactor of transformers": theirs.step,
        "Adafactor": ours.step,
        "EMA": lambda: average.step(net.parameters()),
    }


def after_backward(family: str) -> dict[str, Callable[[], object]]:
    """All that follows the backward pass of a step of one micro-batch in bf16 with AdamW, on a card: gradients to fp32,
    their norm, clipping or skipping, the update, and the copy to the weights that compute."""

    def step(half: bool) -> Callable[[], object]:
        net = control_net(family)
        weights = CompactMasterWeights(net, torch.bfloat16, "whole")
        weights.refresh()
        for parameter in net.parameters():
            parameter.grad = None
        if half:
            weights.keep_half_gradients()
        optimizer: Any = torch.optim.AdamW(parameter_groups(net, 0.01), fused=True)

        def work() -> None:
            for computing in weights.master_of:
                computing.grad = torch.empty_like(computing)
            if not half:
                weights.widen_gradients()  # as the hooks on the weights do
            norm = weights.gradient_norm(list(net.parameters()))
            optimizer.grad_scale, optimizer.found_inf = norm, torch.zeros((), device=CARD)
            weights.update(optimizer.step, 0)
            optimizer.zero_grad(set_to_none=True)
            weights.refresh()

        return work

    return {
        "After the backward pass, fp32 gradients": step(half=False),
        "After the backward pass, gradients in half precision": step(half=True),
    }


def in_one_pass(family: str) -> Traffic:
    """The same with ``optim.one_pass_update``: the norm as counted, and a compiled kernel for each weight.

    It reads gradient, master weight and both moments once, and writes the last three and the copy once. The compiler
    for processors makes that many kernels (tests/nets/test_compiled_adamw.py); one for cards may join some.
    """
    net = control_net(family)
    weights = CompactMasterWeights(net, torch.bfloat16, "whole")
    weights.refresh()
    weights.keep_half_gradients()
    for computing in weights.master_of:
        computing.grad = torch.empty_like(computing)
    traffic = count(lambda: weights.gradient_norm(list(net.parameters())))
    for computing, master in weights.master_of.items():
        traffic.kernels += 1
        traffic.bytes += 2 * computing.nbytes + 6 * master.nbytes
    return traffic


def fp8_forward(family: str, images: int = 4) -> dict[str, Callable[[], object]]:
    """The forward pass of a base's UNet in half precision and in fp8, with its scales on the weights alone and as it
    is."""
    config = json.loads((LAYOUTS / family / "unet" / "config.json").read_text(encoding="utf-8"))
    side, width = config["sample_size"], config["cross_attention_dim"]
    with CARD:
        unet = UNet2DConditionModel.from_config(config).to(torch.bfloat16).requires_grad_(False)
        noisy, text = torch.empty(images, 4, side, side), torch.empty(images, 77, width)
        more = {"text_embeds": torch.empty(images, 1280), "time_ids": torch.empty(images, 6)}
    more = {name: tensor.bfloat16() for name, tensor in more.items()}
    conditions = {"added_cond_kwargs": more} if config.get("addition_embed_type") else {}
    small = copy.deepcopy(unet)
    quantize_base(small, kind="fp8", modulation="base", layers=by_name(family).layers)

    def forward(net: Any) -> object:
        with torch.no_grad():
            return net(noisy.bfloat16(), torch.zeros(images, device=CARD), text.bfloat16(), **conditions)

    def on_weights() -> object:
        with patch("engine.nets.frozen_layers.scales_output", lambda *given: False):
            return forward(small)

    return {
        "UNet in bf16, forward pass": lambda: forward(unet),
        "UNet in fp8, scales on the weights": on_weights,
        "UNet in fp8": lambda: forward(small),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    print("| | ControlNet of | kernels | GB read and written |\n|---|---|---|---|")
    for family in parser.parse_args().families:
        counted = {**optimizers(control_net(family)), **after_backward(family), **fp8_forward(family)}
        for name, work in counted.items():
            with patch("torch.optim.adam._device_dtype_check_for_fused"):  # which does not know the meta device
                traffic = count(work)
            print(f"| {name} | {family} | {traffic.kernels:,} | {traffic.bytes / 1e9:.1f} |", flush=True)
        compiled = in_one_pass(family)
        print(
            f"| After the backward pass, in one pass | {family} | {compiled.kernels:,} | {compiled.bytes / 1e9:.1f} |"
        )


if __name__ == "__main__":
    main()
