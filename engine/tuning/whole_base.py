"""The whole base: every weight of its denoiser is trained, and of its text encoders if wanted; the VAE is frozen."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.bases.merged_tensors import load_text_tensors, text_tensors
from engine.families.text_names import clip_name
from engine.tuning.controlnet import training_bytes
from engine.tuning.learned_text import LearnedText
from engine.tuning.trainable import Placement, Trainable

DENOISER, AVERAGED_DENOISER = "denoiser/denoiser.safetensors", "denoiser/denoiser_ema.safetensors"
"""The denoiser's files in a checkpoint, fp32, under diffusers names."""
TEXT_FOLDER, AVERAGED_TEXT_FOLDER = "text_encoders", "text_encoders_ema"
"""Folders with a file for each text encoder that is trained, fp32, named after its folder in the base; its tensors have
the names with ``text_model.``."""
WHY_LIVE = "In this run the base itself is trained, and only its present state is in memory."


class Parts(nn.Module):
    """The denoiser and text encoders as one net."""

    def __init__(self, denoiser: nn.Module, text: LearnedText, text_share: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._folders = text.parts()
        for part, encoder in self._folders.items():
            self.add_module(part, encoder.requires_grad_(True))
        freeze_unread(text, self.encoders.values())
        trained = (name for name, weight in self.named_parameters() if weight.requires_grad)
        self.rate_shares = {name: text_share for name in trained if not name.startswith("denoiser.")}
        """Shares of the learning rate, by parameter; 1 for the others."""

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """The text encoders by their folders in the base."""
        return {part: self.get_submodule(part) for part in self._folders}


def freeze_unread(text: LearnedText, encoders: Iterable[nn.Module]) -> None:
    """Freeze the weights of text encoders of which no embedding depends: layers behind the one that is read."""
    weights = [weight for encoder in encoders for weight in encoder.parameters()]
    embedded = text.encode({name: rows.to(weights[0].device) for name, rows in text.numbers_of("").items()})
    total = torch.stack([rows.float().square().sum() for rows in embedded.values()]).sum()
    found = torch.autograd.grad(total, weights, allow_unused=True)
    for weight, gradient in zip(weights, found, strict=True):
        weight.requires_grad_(gradient is not None)


class WholeBase(Trainable):
    """In half precision the base's denoiser is the copy that computes; in fp32 it is the master net as well."""

    def __init__(
        self, denoiser: Any, place: Placement, text: LearnedText | None = None, text_share: float = 1.0
    ) -> None:
        """
        Args:
            denoiser: fp32, so that the master weights start from unrounded ones; afterwards it is in the run's dtype.
            text: text encoders that learn, too; likewise.
            text_share: of the learning rate, for these.
        """
        compute: Any = denoiser.requires_grad_(True).train()
        if text is not None:
            compute = Parts(denoiser, text, text_share)
        master = compute
        if place.dtype != torch.float32 or place.in_ram:
            master = copy.deepcopy(compute)
            if place.in_ram:
                master.cpu()
            nn.Module.to(compute, place.dtype)  # diffusers' own method warns of nets that keep some parts in fp32
        self.master = self.averaged = master
        self.weights = place.sync(master, compute)
        self.weights.compute = denoiser
        self._text = text

    @property
    def learned_text(self) -> LearnedText | None:
        return self._text

    @property
    def _denoiser(self) -> nn.Module:
        """The denoiser's master weights."""
        return self.master.denoiser if isinstance(self.master, Parts) else self.master

    @property
    def _encoders(self) -> dict[str, nn.Module]:
        """Master weights of the text encoders that learn, by their folders in the base."""
        return self.master.encoders if isinstance(self.master, Parts) else {}

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        target = folder / (AVERAGED_DENOISER if average else DENOISER)
        target.parent.mkdir(exist_ok=True)
        save_file({name: weight.contiguous() for name, weight in self._denoiser.state_dict().items()}, target)
        yield target
        for part, encoder in self._encoders.items():
            target = folder / (AVERAGED_TEXT_FOLDER if average else TEXT_FOLDER) / f"{part}.safetensors"
            target.parent.mkdir(exist_ok=True)
            save_file({name: weight.contiguous() for name, weight in text_tensors(encoder).items()}, target)
            yield target

    def load(self, folder: Path) -> None:
        self._denoiser.load_state_dict(load_file(folder / DENOISER))
        for part, encoder in self._encoders.items():
            load_text_tensors(encoder, load_file(folder / TEXT_FOLDER / f"{part}.safetensors"))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        found = load_file(folder / AVERAGED_DENOISER)
        if not self._encoders:
            return found
        found = {f"denoiser.{name}": tensor for name, tensor in found.items()}
        for part, encoder in self._encoders.items():
            tensors = load_file(folder / AVERAGED_TEXT_FOLDER / f"{part}.safetensors")
            own = (name for name, _ in encoder.named_parameters())
            found |= {f"{part}.{name}": tensors[clip_name(encoder, name)] for name in own}
        return found

    def checkpoint_bytes(self, average: bool) -> int:
        return training_bytes(self.master, average)

    def why_only_live(self) -> str:
        return WHY_LIVE
