"""A UNet and its ControlNet as ONNX graphs: what is exported, and nets that compute with the finished graphs.

The graphs are called CONTROLNET and DENOISER. The first gives the residuals that the second adds. Strength, guess mode
and further ControlNets act on the residuals in between, as with torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import nn

CONTROLNET, DENOISER = "controlnet", "denoiser"
ADDED = ("text_embeds", "time_ids")
"""Inputs of a UNet that reads pooled text and sizes, too."""
KEPT_LAYERS = ("conv_in", "conv_out", "time_embedding", "add_embedding", "time_emb_proj", "controlnet_")
"""Layers that stay in floating point when a graph is quantized: both ends, and what reads the timestep."""
PIXELS = 8
"""Pixels of the control image for each latent, in both directions."""

Tensors = dict[str, torch.Tensor]
Run = Callable[[Tensors], list[torch.Tensor]]
"""Computes a graph: inputs by name, fp32 on the CPU, to its outputs in order."""


@dataclass(frozen=True)
class Graph:
    """A module to export."""

    module: nn.Module
    arguments: tuple[Any, ...]
    """Example inputs: tensors, and the residuals as a list."""
    free: dict[str, Any]
    """For each argument of its forward, the axes that may have any size, as torch.export wants them."""
    input_names: list[str]
    output_names: list[str]


def residual_names(config: Mapping[str, Any]) -> list[str]:
    """Names of the residuals that a UNet of this config takes: down blocks first, then the middle block."""
    blocks = len(config["block_out_channels"])
    return [f"residual_{number}" for number in range(blocks * int(config["layers_per_block"]) + blocks + 1)]


def graphs(denoiser: Any, net: Any, inputs: Tensors) -> dict[str, Graph]:
    """Both graphs, with batch, size and length of the text free.

    Args:
        inputs: from ``example``, in the nets' precision.
    """
    auto = torch.export.Dim.AUTO
    latents, rows = {0: auto, 2: auto, 3: auto}, {0: auto}
    order, added = ["sample", "timestep", "text"], _added(inputs)
    common, control = tuple(inputs[name] for name in order), inputs["control"]
    free = {"sample": latents, "timestep": rows, "text": {0: auto, 1: auto}}
    more = [name for name in ADDED if name in inputs]
    rest = {"added": tuple(rows for _ in more)} if more else {}
    names, first = residual_names(net.config), _ControlGraph(net)
    with torch.no_grad():
        residuals = list(first(*common, control, *added))
    return {
        CONTROLNET: Graph(
            first,
            (*common, control, *added),
            {**free, "control": latents, **rest},
            [*order, "control", *more],
            names,
        ),
        DENOISER: Graph(
            _DenoiserGraph(denoiser),
            (*common, residuals, *added),
            {**free, "residuals": [latents for _ in names], **rest},
            [*order, *names, *more],
            ["prediction"],
        ),
    }


def example(config: Mapping[str, Any], batch: int, height: int, width: int, tokens: int, seed: int = 0) -> Tensors:
    """Inputs of noise for a UNet of this config, and a control image; fp32. ``height``, ``width``: of the latents."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        "sample": torch.randn((batch, config["in_channels"], height, width), generator=generator),
        "timestep": torch.rand(batch, generator=generator) * 999,
        "text": torch.randn((batch, tokens, config["cross_attention_dim"]), generator=generator),
        "control": torch.rand((batch, 3, height * PIXELS, width * PIXELS), generator=generator),
    }
    if config.get("addition_embed_type") == "text_time":
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        sizes = [height * PIXELS, width * PIXELS]
        made["text_embeds"] = torch.randn((batch, pooled), generator=generator)
        made["time_ids"] = torch.tensor([[*sizes, 0.0, 0.0, *sizes]]).repeat(batch, 1)
    return made


def text_inputs(text: Tensors, size: Sequence[int]) -> Tensors:
    """The inputs that come from an encoded text. ``size``: height and width of the image in pixels."""
    found = {"text": text["hidden"]}
    if "pooled" in text:
        found |= {"text_embeds": text["pooled"], "time_ids": torch.tensor([[*size, 0.0, 0.0, *size]])}
    return found


def predict(controlnet: Run, denoiser: Run, inputs: Tensors, config: Mapping[str, Any]) -> torch.Tensor:
    """The prediction of both graphs, one after the other, at full strength."""
    residuals = controlnet(inputs)
    return denoiser({**inputs, **dict(zip(residual_names(config), residuals, strict=True))})[0]


@torch.no_grad()
def predict_with(denoiser: Any, net: Any, inputs: Tensors) -> torch.Tensor:
    """The same prediction with the nets themselves."""
    common, added = [inputs[name] for name in ("sample", "timestep", "text")], _added(inputs)
    residuals = list(_ControlGraph(net)(*common, inputs["control"], *added))
    return _DenoiserGraph(denoiser)(*common, residuals, *added)


def _added(inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    return [inputs[name] for name in ADDED if name in inputs]


def _conditions(added: Sequence[torch.Tensor]) -> dict[str, Any]:
    return {"added_cond_kwargs": dict(zip(ADDED, added, strict=True))} if added else {}


class _ControlGraph(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, sample: Any, timestep: Any, text: Any, control: Any, *added: Any) -> tuple[torch.Tensor, ...]:
        down, middle = self.net(
            sample, timestep, text, controlnet_cond=control, return_dict=False, **_conditions(added)
        )
        return *down, middle


class _DenoiserGraph(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, sample: Any, timestep: Any, text: Any, residuals: Any, *added: Any) -> torch.Tensor:
        *down, middle = residuals
        return self.net(
            sample,
            timestep,
            text,
            down_block_additional_residuals=tuple(down),
            mid_block_additional_residual=middle,
            return_dict=False,
            **_conditions(added),
        )[0]


class OnnxControlNet(ControlNetModel):
    """Takes a ControlNet's place in diffusers' pipelines, and computes with its graph."""

    def __init__(self, config: Mapping[str, Any], run: Run) -> None:
        nn.Module.__init__(self)  # without the layers of a real one
        self.register_to_config(**public(config))
        self.run = run
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)  # shows device and precision

    def forward(
        self,
        sample: torch.Tensor,
        timestep: Any,
        encoder_hidden_states: torch.Tensor,
        controlnet_cond: torch.Tensor,
        conditioning_scale: float = 1.0,
        added_cond_kwargs: Mapping[str, torch.Tensor] | None = None,
        guess_mode: bool = False,
        **_: Any,
    ) -> Any:
        inputs = _inputs(sample, timestep, encoder_hidden_states, added_cond_kwargs)
        residuals = self.run({**inputs, "control": controlnet_cond.float().cpu()})
        scales = [float(conditioning_scale)] * len(residuals)
        if guess_mode and not self.config["global_pool_conditions"]:
            scales = [float(scale) * conditioning_scale for scale in torch.logspace(-1, 0, len(residuals))]
        down = [one.to(sample) * scale for one, scale in zip(residuals, scales, strict=True)]
        middle = down.pop()
        return down, middle


class OnnxDenoiser(UNet2DConditionModel):
    """Takes a UNet's place in diffusers' pipelines, and computes with its graph."""

    def __init__(self, config: Mapping[str, Any], run: Run) -> None:
        nn.Module.__init__(self)  # without the layers of a real one
        self.register_to_config(**public(config))
        self.run = run
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)
        if width := config.get("projection_class_embeddings_input_dim"):  # the pipelines ask the layer for its width
            self.add_embedding = SimpleNamespace(linear_1=SimpleNamespace(in_features=width))

    def forward(
        self,
        sample: torch.Tensor,
        timestep: Any,
        encoder_hidden_states: torch.Tensor,
        down_block_additional_residuals: Sequence[torch.Tensor] = (),
        mid_block_additional_residual: torch.Tensor | None = None,
        added_cond_kwargs: Mapping[str, torch.Tensor] | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor]:
        assert mid_block_additional_residual is not None, "the graph takes a ControlNet's residuals"
        residuals = [*down_block_additional_residuals, mid_block_additional_residual]
        inputs = _inputs(sample, timestep, encoder_hidden_states, added_cond_kwargs)
        named = zip(residual_names(self.config), residuals, strict=True)
        predicted = self.run({**inputs, **{name: one.float().cpu() for name, one in named}})[0]
        return (predicted.to(sample),)


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without diffusers' own entries."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _inputs(sample: torch.Tensor, timestep: Any, text: torch.Tensor, added: Mapping[str, Any] | None) -> Tensors:
    times = torch.as_tensor(timestep, dtype=torch.float32).cpu().expand(len(sample)).contiguous()
    found = {"sample": sample, "text": text, **{name: (added or {})[name] for name in ADDED if name in (added or {})}}
    return {"timestep": times, **{name: one.detach().float().cpu().contiguous() for name, one in found.items()}}
