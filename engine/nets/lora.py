"""Training a Control-LoRA: the layers that a ControlNet copies from its base stay the base's, and thin matrices learn.

What such a layer adds to the base's own answer is ``up @ down`` (Hu et al. 2021, arXiv 2106.09685), in the shapes and
at the scale (1) in which the file format holds them: what is exported is what was trained. The base's weights are the
UNet's own tensors, so no second copy is in memory. Layers that two thin matrices would not make smaller, the hint
encoder, the zero convolutions, all norms and all biases learn whole, in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.families.layers import UNET
from engine.nets import fp8
from engine.nets.controlnet_files import WEIGHTS
from engine.nets.low_rank_math import factorize, is_smaller

DEAD = 1e-6  # of a layer's strongest direction: a weaker one holds rounding alone

Tensors = dict[str, torch.Tensor]


class ThinLinear(nn.Linear):
    """A linear layer with a weight that is another's, and two thin matrices beside it: up (out, r), down (r, in)."""

    up: nn.Parameter
    down: nn.Parameter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        of_base = fp8.answer(self, x) if self.weight.dtype == fp8.FP8 else super().forward(x)
        return of_base + functional.linear(functional.linear(x, self.down), self.up)


class ThinConv2d(nn.Conv2d):
    """The same for a convolution: up (out, r, 1, 1), down (r, in, k, k), which steps and pads as the layer does."""

    up: nn.Parameter
    down: nn.Parameter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        of_base = fp8.answer(self, x) if self.weight.dtype == fp8.FP8 else super().forward(x)
        return of_base + functional.conv2d(self._conv_forward(x, self.down, None), self.up)


KINDS: dict[type, type] = {nn.Linear: ThinLinear, nn.Conv2d: ThinConv2d}


@torch.no_grad()
def slim(controlnet: Any, unet: Any, rank: int, moved: bool = False, device: torch.device | None = None) -> None:
    """Change a whole ControlNet in place into one of thin matrices over the UNet's own weights.

    Where the UNet goes, its weights go, since they are the same tensors; what learns is where the ControlNet was.

    Args:
        rank: of the thin matrices; of their product, too.
        device: to take the difference apart on, if not where the base is.
        moved: the net has learnt before: its difference to the base is kept as far as the rank allows. Else the new
            matrices add nothing at first: ``up`` is zero, ``down`` is drawn from the global random state.
    """
    base = dict(unet.named_parameters())
    for name, layer in list(controlnet.named_modules()):
        key = f"{name}.weight"
        if type(layer) not in KINDS or not key.startswith(UNET.copied) or not is_smaller(key, layer.weight, base, rank):
            continue
        whole = layer.weight
        up, down = fresh(whole, rank)
        if moved:
            place = device or base[key].device  # taken apart on the card, if any
            difference = whole.float().to(place) - base[key].float().to(place)
            up, down = nearest(difference.flatten(1), up.flatten(1), down.flatten(1))
        layer.__class__ = KINDS[type(layer)]  # its other settings stay: kernel, step, padding, bias
        layer.weight = base[key].requires_grad_(False)
        layer.up = nn.Parameter(up.reshape(whole.shape[0], rank, *[1] * (whole.ndim - 2)).contiguous())
        layer.down = nn.Parameter(down.reshape(rank, *whole.shape[1:]).contiguous())


def fresh(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices whose product is zero and can grow, fp32."""
    down = torch.empty((rank, *weight.shape[1:]), device=weight.device)
    nn.init.kaiming_uniform_(down, a=5**0.5)
    return torch.zeros((weight.shape[0], rank), device=weight.device), down


def nearest(difference: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The product nearest to a difference; directions that it does not need stay as they are in ``up`` and ``down``.

    Were both sides of such a direction zero, no gradient would ever move them.
    """
    strong_up, strong_down = (side.to(up.device) for side in factorize(difference, down.shape[0]))
    strength = strong_up.norm(dim=0)
    alive = (strength > DEAD**0.5 * strength.max()).nonzero().flatten()
    up, down = up.clone(), down.clone()
    up[:, alive], down[alive] = strong_up[:, alive], strong_down[alive]
    return up, down


def thin_layers(controlnet: nn.Module) -> dict[str, Any]:
    """The layers that ``slim`` changed, by name; none in a whole net."""
    return {name: layer for name, layer in controlnet.named_modules() if isinstance(layer, ThinLinear | ThinConv2d)}


def learnt(controlnet: nn.Module) -> Tensors:
    """What is the net's own and not the base's, as it is; of a whole net everything."""
    shared = {f"{name}.weight" for name in thin_layers(controlnet)}
    return {name: tensor for name, tensor in controlnet.state_dict().items() if name not in shared}


def put_back(controlnet: nn.Module, tensors: Tensors) -> None:
    """``learnt`` the other way.

    Raises:
        ValueError: they are of another net or rank.
    """
    shared = {f"{name}.weight" for name in thin_layers(controlnet)}
    problems = controlnet.load_state_dict(tensors, strict=False)
    if problems.unexpected_keys or set(problems.missing_keys) != shared:
        wrong = sorted(set(problems.unexpected_keys) | set(problems.missing_keys) ^ shared)
        raise ValueError(f"{wrong[0]} ({len(wrong)} tensors) is not as in this net")


@torch.no_grad()
def merged(controlnet: nn.Module) -> Tensors:
    """The whole net under diffusers names, fp32, on the CPU: the base's weights with the products added."""
    layers = thin_layers(controlnet)
    whole = {}
    for name, tensor in controlnet.state_dict().items():
        stem, _, part = name.rpartition(".")
        if stem in layers and part in ("up", "down"):
            continue
        if stem in layers and part == "weight":
            layer = layers[stem]
            small = tensor.dtype == fp8.FP8
            tensor = fp8.widened(tensor, layer.scale, torch.float32) if small else tensor.float()
            product = layer.up.flatten(1) @ layer.down.flatten(1)
            tensor = tensor + product.reshape(tensor.shape).to(tensor.device)
        whole[name] = tensor.detach().float().cpu().contiguous()
    return whole


def save_net(controlnet: Any, folder: Any) -> None:
    """Write a net as a diffusers folder, whole in either case."""
    if not thin_layers(controlnet):
        controlnet.save_pretrained(folder, safe_serialization=True)
        return
    from safetensors.torch import save_file

    controlnet.save_config(folder)
    save_file(merged(controlnet), folder / WEIGHTS, metadata={"format": "pt"})


def save_factors(controlnet: nn.Module, path: Any) -> None:
    """Write what has learnt, in fp32, for a resume and for an export as it was trained."""
    from safetensors.torch import save_file

    path.parent.mkdir(exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learnt(controlnet).items()}
    save_file(tensors, path, metadata={"format": "pt"})
