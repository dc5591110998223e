"""LoRA and embedding files with random values, in the namings of several programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from engine.families.base import Family
from engine.families.unet_names import original_names

RANK, ALPHA = 4, 2.0
OLD_PREFIX = "text_model."


def modules(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """All layers that a LoRA may change."""
    return ((name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d))


def factors(net: nn.Module, seed: int = 0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(down, up) of every layer of a net."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    found = {}
    for name, layer in modules(net):
        weight = layer.weight
        ones = [1] * (weight.ndim - 2)
        found[name] = (draw(RANK, *weight.shape[1:]), draw(weight.shape[0], RANK, *ones))
    return found


def text_encoders(family: Family, base: Path) -> dict[str, Any]:
    """The text encoders of a base by part."""
    loaded = family.load_text_encoder(str(base), torch.float32)
    parts = family.pipeline_parts({"denoiser": None, "vae": None, "text_encoder": loaded, "tokenizer": None})
    return {name: one for name, one in sorted(parts.items()) if name.startswith("text_encoder") and one is not None}


def kohya(prefix: str, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """With the names of kohya's scripts."""
    found = {}
    for name, (down, up) in pairs.items():
        flat = prefix + name.replace(".", "_")
        found |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(ALPHA)}
    return found


def original(net: nn.Module, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """kohya's names over those of the original code, as many SDXL files have them."""
    names = original_names([name for name, _ in modules(net)])
    return kohya("lora_unet_", {names.get(name, name): pair for name, pair in pairs.items()})


def peft(part: str, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """With the names of diffusers and peft; alpha is in the metadata, or the rank."""
    found = {}
    for name, (down, up) in pairs.items():
        found |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
    return found


def first_diffusers(pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """With the names of diffusers' first LoRA files: attention only."""
    found = {}
    for name, (down, up) in pairs.items():
        before, _, layer = name.rpartition("attn1.")
        if before and layer in ("to_q", "to_k", "to_v", "to_out.0"):
            stem = f"unet.{before}attn1.processor.{layer.removesuffix('.0')}_lora"
            found |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
    return found


def old_names(encoder: Any, pairs: Mapping[str, Any]) -> dict[str, Any]:
    """A text encoder's layers with ``text_model.`` in front of their names."""
    return {name if name.startswith(OLD_PREFIX) else OLD_PREFIX + name: pair for name, pair in pairs.items()}


def write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path
