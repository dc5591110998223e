"""Reads an export back and compares it with the checkpoint: names, shapes, numbers, what the net says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel

from engine.errors import UserError
from engine.export import readers
from engine.export.source import Source

TRIGGER = "controlnet_cond_embedding.conv_in.weight"  # by which ComfyUI and AUTOMATIC1111 know the names of diffusers
# Of the strongest output: rounding to 11 (8) significant bits, a little of it added up through the layers.
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 8e-2}

Tensors = dict[str, torch.Tensor]


def check(source: Source, config: dict[str, Any] | None, tensors: Tensors, name: str = "the file") -> str:
    """Compare what was read back with what should have been written.

    Args:
        config: None where the format carries none.
        tensors: under their diffusers names, a Control-LoRA's still taken apart.

    Returns:
        A sentence that says what was checked.

    Raises:
        UserError: the first difference.
    """
    if config is not None and config != source.config:
        raise failed("the config differs from the checkpoint's")
    expected = set(source.tensors)
    for words, names in (
        ("lacks", expected - tensors.keys()),
        ("has, and the net does not know,", tensors.keys() - expected),
        ("lacks what ComfyUI looks for:", {TRIGGER} - tensors.keys()),
    ):
        if names:
            raise failed(f"the file {words} {min(names)} ({len(names)} of {len(expected)} tensors)")
    for key, wanted in source.tensors.items():
        got = tensors[key]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise failed(f"{key} is {got.dtype} {tuple(got.shape)} instead of {wanted.dtype} {tuple(wanted.shape)}")
        if not got.isfinite().all() or not torch.equal(got, wanted):
            raise failed(f"{key} has other numbers than the checkpoint")
    whole = source.whole(tensors, name)
    lacking = empty_net(source.config).state_dict().keys() ^ whole.keys()
    if lacking:
        raise failed(f"the net and the file disagree about {min(lacking)} ({len(lacking)} tensors)")
    difference = largest_difference(source.config, source.original, whole)
    if source.base is not None:
        if difference != difference:
            raise failed("the net answers with no numbers")
        if source.trained_thin:
            _same_answers(source, difference)
            return (
                f"Read back: {len(tensors)} tensors, all finite and as they were trained, in {source.precision}; with "
                f"the base it answers like the checkpoint (largest difference {difference:.2%})."
            )
        return (
            f"Read back: {len(tensors)} tensors, all finite and as they were written in {source.precision}. With the "
            f"base it is the checkpoint but for {source.error:.1%} of what was learnt; its answers differ by at most "
            f"{difference:.1%} of the strongest."
            + ("" if any(key.endswith(".up") for key in tensors) else " So small a net does not shrink at this rank.")
        )
    _same_answers(source, difference)
    return (
        f"Read back: {len(tensors)} tensors, all finite and equal to the checkpoint in {source.precision}; "
        f"it answers like the checkpoint (largest difference {difference:.2%})."
    )


def _same_answers(source: Source, difference: float) -> None:
    if not difference <= TOLERANCE[source.coarsest]:
        raise failed(f"the net answers otherwise than the checkpoint (by {difference:.2%} of its strongest output)")


def check_readers(path: Path, source: Source, stem: str, file_tag: str) -> str:
    """How ComfyUI and AUTOMATIC1111 will take the file; empty for a folder, which is not for them.

    Raises:
        UserError: one of them would misread it.
    """
    if path.is_dir():
        return ""
    net = {key: tuple(weight.shape) for key, weight in empty_net(source.config).state_dict().items()}
    try:
        kind = readers.check(readers.raw_shapes(path), net, source.config, stem, file_tag)
    except readers.Misread as error:
        raise failed(str(error)) from error
    return f"By their rules ComfyUI, AUTOMATIC1111 and Forge take it for {kind}."


def empty_net(config: dict[str, Any]) -> Any:
    """The net of a config on the meta device: names and shapes, no memory."""
    with init_empty_weights():
        return ControlNetModel.from_config(config)


def largest_difference(config: dict[str, Any], first: Tensors, second: Tensors) -> float:
    """Of the outputs for one fixed input, both computed in fp32; a share of the strongest output."""
    one, other = answers(config, first), answers(config, second)
    strongest = max(float(output.abs().max()) for output in one)
    apart = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
    return apart / strongest if strongest > 0 else apart


@torch.no_grad()
def answers(config: dict[str, Any], tensors: Tensors) -> list[torch.Tensor]:
    """The residuals that the net adds to the UNet, for 8 x 8 latents of fixed noise under a fixed map."""
    net = net_of(config, tensors)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, net.config.in_channels, 8, 8), generator=generator)
    text = torch.randn((1, 8, net.config.cross_attention_dim), generator=generator)
    hint = torch.rand((1, net.config.conditioning_channels, 64, 64), generator=generator)
    more = _more_inputs(net.config, generator)
    down, middle = net(
        latents, torch.tensor([500]), text, controlnet_cond=hint, added_cond_kwargs=more, return_dict=False
    )
    return [*down, middle]


def net_of(config: dict[str, Any], tensors: Tensors) -> Any:
    """A net for drawing with these weights, in fp32."""
    net = empty_net(config)
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return net.eval().requires_grad_(False)


def _more_inputs(config: Any, generator: torch.Generator) -> dict[str, torch.Tensor] | None:
    """The pooled text and the six sizes that some nets read besides (SDXL, Podell et al. 2023)."""
    if config.addition_embed_type != "text_time":
        return None
    width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
    return {"text_embeds": torch.randn((1, width), generator=generator), "time_ids": sizes}


def failed(why: str) -> UserError:
    """The words for any difference."""
    return UserError(
        "The export failed its check and was not kept.",
        f"{why[0].upper()}{why[1:]}.",
        "Export again; if it fails again, check the disk and send the report to the project.",
    )
