"""Reads an export back and compares it with the checkpoint: names, shapes, numbers, and what the net says."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel

from engine.errors import UserError
from engine.export.source import DTYPES, Source

TRIGGER = "controlnet_cond_embedding.conv_in.weight"  # by which ComfyUI and AUTOMATIC1111 know the names of diffusers
# Of the strongest output: rounding to 11 (8) significant bits, a little of it added up through the layers.
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 8e-2}


def check(source: Source, config: dict[str, Any] | None, tensors: dict[str, torch.Tensor]) -> str:
    """Compare what was read back with what should have been written.

    Args:
        config: None where the format carries none.
        tensors: under their diffusers names.

    Returns:
        A sentence that says what was checked.

    Raises:
        UserError: the first difference.
    """
    expected = set(empty_net(source.config if config is None else config).state_dict())
    for words, names in (
        ("lacks", expected - tensors.keys()),
        ("has, and the net does not know,", tensors.keys() - expected),
        ("lacks what ComfyUI looks for:", {TRIGGER} - tensors.keys()),
    ):
        if names:
            raise _failed(f"the file {words} {min(names)} ({len(names)} of {len(expected)} tensors)")
    if config is not None and config != source.config:
        raise _failed("the config differs from the checkpoint's")
    for name, wanted in source.tensors.items():
        got = tensors[name]
        if got.shape != wanted.shape or got.dtype != DTYPES[source.precision]:
            raise _failed(f"{name} is {got.dtype} {tuple(got.shape)} instead of {wanted.dtype} {tuple(wanted.shape)}")
        if not got.isfinite().all() or not torch.equal(got, wanted):
            raise _failed(f"{name} has other numbers than the checkpoint")
    difference = largest_difference(source.config, source.original, tensors)
    if not difference <= TOLERANCE[source.precision]:
        raise _failed(f"the net answers otherwise than the checkpoint (by {difference:.2%} of its strongest output)")
    return (
        f"Read back: {len(tensors)} tensors, all finite and equal to the checkpoint in {source.precision}; "
        f"it answers like the checkpoint (largest difference {difference:.2%})."
    )


def empty_net(config: dict[str, Any]) -> Any:
    """The net of a config on the meta device: names and shapes, no memory."""
    with init_empty_weights():
        return ControlNetModel.from_config(config)


def largest_difference(
    config: dict[str, Any], first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]
) -> float:
    """Of the outputs for one fixed input, both computed in fp32; a share of the strongest output."""
    one, other = answers(config, first), answers(config, second)
    strongest = max(float(output.abs().max()) for output in one)
    apart = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
    return apart / strongest if strongest > 0 else apart


@torch.no_grad()
def answers(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The residuals that the net adds to the UNet, for 8 x 8 latents of fixed noise under a fixed map."""
    net = empty_net(config)
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    net.eval()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, net.config.in_channels, 8, 8), generator=generator)
    text = torch.randn((1, 8, net.config.cross_attention_dim), generator=generator)
    hint = torch.rand((1, net.config.conditioning_channels, 64, 64), generator=generator)
    more = _more_inputs(net.config, generator)
    down, middle = net(
        latents, torch.tensor([500]), text, controlnet_cond=hint, added_cond_kwargs=more, return_dict=False
    )
    return [*down, middle]


def _more_inputs(config: Any, generator: torch.Generator) -> dict[str, torch.Tensor] | None:
    """The pooled text and the six sizes that some nets read besides (SDXL, Podell et al. 2023)."""
    if config.addition_embed_type != "text_time":
        return None
    width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
    return {"text_embeds": torch.randn((1, width), generator=generator), "time_ids": sizes}


def _failed(why: str) -> UserError:
    return UserError(
        "The export failed its check and was not kept.",
        f"{why[0].upper()}{why[1:]}.",
        "Export again; if it fails again, check the disk and send the report to the project.",
    )
