"""Control-LoRA: the layers that a ControlNet copies from its base stay the base's, and low-rank factors are trained.

Or the layers of the ControlNet that a run starts from stay as they are, and factors are trained beside those.

A layer adds ``up @ down`` to the base's own output (Hu et al. 2021, arXiv 2106.09685), in the shapes and at the scale
(1) of the file format: what is exported is what was trained. The base's weights are the UNet's own tensors, so there is
no second copy in memory. Layers that low rank would not make smaller, the encoder of the control image, the zero
convolutions, all norms and all biases are trained whole, in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.families.layers import Layers
from engine.machine.units import counted
from engine.nets.controlnet_files import WEIGHTS
from engine.nets.frozen_layers import dequantized_weight, frozen_forward, is_quantized
from engine.nets.low_rank_math import factorize, is_smaller

NEGLIGIBLE = 1e-6  # of a layer's largest singular value: a smaller one is rounding

Tensors = dict[str, torch.Tensor]


class LoraLinear(nn.Linear):
    """A linear layer over a weight of the base, with factors up (out, r) and down (r, in) beside it."""

    up: nn.Parameter
    down: nn.Parameter
    off = False
    """The factors are left out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = frozen_forward(self, x) if is_quantized(self) else super().forward(x)
        return base if self.off else base + functional.linear(functional.linear(x, self.down), self.up)


class LoraConv2d(nn.Conv2d):
    """A convolution over a weight of the base: up (out, r, 1, 1), and down (r, in, k, k) with the layer's stride."""

    up: nn.Parameter
    down: nn.Parameter
    off = False
    """The factors are left out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = frozen_forward(self, x) if is_quantized(self) else super().forward(x)
        return base if self.off else base + functional.conv2d(self._conv_forward(x, self.down, None), self.up)


KINDS: dict[type, type] = {nn.Linear: LoraLinear, nn.Conv2d: LoraConv2d}


@torch.no_grad()
def to_control_lora(
    controlnet: Any,
    denoiser: Any,
    rank: int,
    layers: Layers,
    trained: bool = False,
    device: torch.device | None = None,
    exact: Mapping[str, torch.Tensor] | None = None,
    factors_on: torch.device | None = None,
) -> None:
    """Turn a whole ControlNet, in place, into low-rank factors over the base's own weights.

    The base's weights are shared tensors and move with the denoiser; the factors stay where the ControlNet was.

    Args:
        rank: of the factors.
        layers: of the base's family.
        trained: the net was trained before; its difference from the base is kept as far as the rank allows. Otherwise
            the factors add nothing at first: ``up`` is zero, ``down`` is drawn from the global random state.
        device: where to decompose the difference, if not where the base is.
        exact: the base's weights in fp32, which the difference is taken from; None: the denoiser's own.
        factors_on: where new factors are made, if the ControlNet was built without the weights that it shares.
    """
    base = {layers.in_control_net(name): weight for name, weight in denoiser.named_parameters()}
    exact = exact or base
    shared = shared_with(denoiser, rank, layers)
    for name, layer in list(controlnet.named_modules()):
        if not shared(name, layer):
            continue
        key, whole = f"{name}.weight", layer.weight
        up, down = new_factors(whole, rank, factors_on or whole.device)
        if trained:
            place = device or base[key].device
            difference = whole.float().to(place) - exact[key].float().to(place)
            up, down = nearest_factors(difference.flatten(1), up.flatten(1), down.flatten(1))
        put_beside(layer, base[key].requires_grad_(False), up, down)


@torch.no_grad()
def to_low_rank_over_itself(
    controlnet: Any, rank: int, layers: Layers, dtype: torch.dtype, device: torch.device | None = None
) -> None:
    """Freeze the layers of a trained ControlNet, in place, and put low-rank factors beside them that add nothing yet.

    Args:
        dtype: of the frozen weights, in which they compute.
        device: where they compute; the factors stay where the ControlNet was.
    """
    for name, layer in list(controlnet.named_modules()):
        key = f"{name}.weight"
        if type(layer) not in KINDS or not key.startswith(layers.copied):
            continue
        whole = layer.weight.detach()
        if is_smaller(key, whole, {key: whole}, rank):
            frozen = nn.Parameter(whole.to(device or whole.device, dtype), requires_grad=False)
            put_beside(layer, frozen, *new_factors(whole, rank, whole.device))


def put_beside(layer: Any, frozen: nn.Parameter, up: torch.Tensor, down: torch.Tensor) -> None:
    """Make a layer one of ``frozen`` weights with factors beside it, up (out, r) and down (r, in) of any shape."""
    shape, rank = frozen.shape, down.shape[0]
    layer.__class__ = KINDS[type(layer)]  # kernel, stride, padding and bias stay
    layer.weight = frozen
    layer.up = nn.Parameter(up.reshape(shape[0], rank, *[1] * (len(shape) - 2)).contiguous())
    layer.down = nn.Parameter(down.reshape(rank, *shape[1:]).contiguous())


@torch.no_grad()
def subtract_factors(controlnet: Any, factors: Tensors) -> None:
    """The weights beside which factors were trained, from those of a net into which they were merged, in place."""
    for name, layer in controlnet.named_modules():
        if f"{name}.up" in factors:
            product = factors[f"{name}.up"].flatten(1) @ factors[f"{name}.down"].flatten(1)
            layer.weight.sub_(product.reshape(layer.weight.shape).to(layer.weight.device))


def shared_with(denoiser: Any, rank: int, layers: Layers) -> Callable[[str, Any], bool]:
    """Whether a ControlNet's layer, given its name and the layer, keeps the denoiser's weight in a Control-LoRA."""
    base = {layers.in_control_net(name): weight for name, weight in denoiser.named_parameters()}

    def is_shared(name: str, layer: Any) -> bool:
        key = f"{name}.weight"
        return type(layer) in KINDS and key.startswith(layers.copied) and is_smaller(key, layer.weight, base, rank)

    return is_shared


def new_factors(weight: torch.Tensor, rank: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors whose product is zero and can be trained, fp32. Of ``weight`` the shape counts."""
    down = torch.empty((rank, *weight.shape[1:]), device=device)
    nn.init.kaiming_uniform_(down, a=5**0.5)
    return torch.zeros((weight.shape[0], rank), device=device), down


def nearest_factors(
    difference: torch.Tensor, up: torch.Tensor, down: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of the best low-rank approximation of a difference.

    Directions that it does not need keep their values of ``up`` and ``down``: if both were zero, no gradient would ever
    change them.
    """
    strong_up, strong_down = (side.to(up.device) for side in factorize(difference, down.shape[0]))
    strength = strong_up.norm(dim=0)
    needed = (strength > NEGLIGIBLE**0.5 * strength.max()).nonzero().flatten()
    up, down = up.clone(), down.clone()
    up[:, needed], down[needed] = strong_up[:, needed], strong_down[needed]
    return up, down


def lora_layers(controlnet: nn.Module) -> dict[str, Any]:
    """The low-rank layers by name; empty for a whole net."""
    return {name: layer for name, layer in controlnet.named_modules() if isinstance(layer, LoraLinear | LoraConv2d)}


def trained_tensors(controlnet: nn.Module) -> Tensors:
    """The state dict without weights that belong to the base."""
    shared = {f"{name}.weight" for name in lora_layers(controlnet)}
    return {name: tensor for name, tensor in controlnet.state_dict().items() if name not in shared}


def load_trained(controlnet: nn.Module, tensors: Tensors) -> None:
    """Load what ``trained_tensors`` returned.

    Raises:
        ValueError: the tensors are of another net or rank.
    """
    shared = {f"{name}.weight" for name in lora_layers(controlnet)}
    problems = controlnet.load_state_dict(tensors, strict=False)
    if problems.unexpected_keys or set(problems.missing_keys) != shared:
        wrong = sorted(set(problems.unexpected_keys) | set(problems.missing_keys) ^ shared)
        raise ValueError(f"{wrong[0]} ({counted(len(wrong), 'tensor')}) differs from this net")


@torch.no_grad()
def merged_weights(controlnet: nn.Module) -> Tensors:
    """The whole net under diffusers names, fp32, on the CPU: the base's weights plus ``up @ down``."""
    layers = lora_layers(controlnet)
    whole = {}
    for name, tensor in controlnet.state_dict().items():
        stem, _, part = name.rpartition(".")
        if stem in layers and part in ("up", "down"):
            continue
        if stem in layers and part == "weight":
            layer = layers[stem]
            tensor = dequantized_weight(layer, torch.float32)
            product = layer.up.flatten(1) @ layer.down.flatten(1)
            tensor = tensor + product.reshape(tensor.shape).to(tensor.device)
        whole[name] = tensor.detach().float().cpu().contiguous()
    return whole


def save_net(controlnet: Any, folder: Any) -> None:
    """Write a net as a diffusers folder; low-rank factors are merged into the base's weights."""
    if not lora_layers(controlnet):
        controlnet.save_pretrained(folder, safe_serialization=True)
        return
    from safetensors.torch import save_file

    controlnet.save_config(folder)
    save_file(merged_weights(controlnet), folder / WEIGHTS, metadata={"format": "pt"})


def save_factors(controlnet: nn.Module, path: Any) -> None:
    """Write the trained tensors, in fp32, for resuming and for exporting them as they are."""
    from safetensors.torch import save_file

    path.parent.mkdir(exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained_tensors(controlnet).items()}
    save_file(tensors, path, metadata={"format": "pt"})
