"""The control net of Z-Image. Its structure is that of diffusers' ZImageControlNetModel, whose files it shares.

diffusers' class holds the denoiser's embedders and refiners as its own, cannot be checkpointed, and each of its blocks
copies the residuals of all blocks before it. Here the denoiser's layers are arguments of the call, so they are neither
trained nor saved, and residuals are a list. tests/families/test_zimage.py compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock
from torch import nn
from torch.nn import functional

MULTIPLE = 32
"""Tokens of images and captions are filled up to a multiple of this."""
PATCH = "2-1"
"""The embedder's key: tokens of 2 x 2 latents of 1 frame."""


@dataclass(frozen=True)
class Embedded:
    """What the denoiser makes of noisy latents and captions before its main layers. B images of N tokens, width D."""

    image: torch.Tensor
    """Image tokens, embedded (B, N, D)."""
    image_places: torch.Tensor
    """Rotary position embedding (B, N, head width / 2), complex."""
    captions: torch.Tensor
    """Refined caption tokens (B, L, D), filled up with zeros."""
    caption_places: torch.Tensor
    """(B, L, head width / 2)."""
    mask: torch.Tensor | None
    """(B, N + L), False where a shorter caption was filled up; None: all have one length."""
    time: torch.Tensor
    """The timestep's embedding (B, T)."""


class ControlBlock(ZImageTransformerBlock):
    """A block of the denoiser whose output goes through a linear layer that is zero at first."""

    def __init__(self, number: int, dim: int, heads: int, norm_eps: float, qk_norm: bool, first: bool) -> None:
        super().__init__(number, dim, heads, heads, norm_eps, qk_norm)
        if first:
            self.before_proj = zero(nn.Linear(dim, dim))
        self.after_proj = zero(nn.Linear(dim, dim))

    def forward(self, control: torch.Tensor, image: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual and the block's output, both as ``control`` (B, N, D). ``image``: added in the first block."""
        if hasattr(self, "before_proj"):
            control = self.before_proj(control) + image
        control = super().forward(control, *arguments)
        return self.after_proj(control), control


class ZImageControlNetModel(ModelMixin, ConfigMixin):
    """Called so in its config.json, which diffusers' class of the same name reads."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ControlBlock", "ZImageTransformerBlock"]

    @register_to_config
    def __init__(
        self,
        control_layers_places: list[int],
        control_refiner_layers_places: list[int] | None = None,
        control_in_dim: int = 16,
        add_control_noise_refiner: str | None = None,
        all_patch_size: tuple[int, ...] = (2,),
        all_f_patch_size: tuple[int, ...] = (1,),
        dim: int = 3840,
        n_refiner_layers: int = 2,
        n_heads: int = 30,
        n_kv_heads: int = 30,
        norm_eps: float = 1e-5,
        qk_norm: bool = True,
    ) -> None:
        """
        Args:
            control_layers_places: the denoiser's layers behind which the residuals are added.
            control_refiner_layers_places: the denoiser's noise refiners, behind which residuals are added for this net.
            control_in_dim: channels of the control image; those beyond the latents' are for inpainting.
            add_control_noise_refiner: "control_noise_refiner": refiners of the control give such residuals; None: they
                only refine the control.
        """
        super().__init__()
        self.gradient_checkpointing = False
        shape: Any = {"dim": dim, "heads": n_heads, "norm_eps": norm_eps, "qk_norm": qk_norm}
        self.control_layers = nn.ModuleList(
            [ControlBlock(place, first=number == 0, **shape) for number, place in enumerate(control_layers_places)]
        )
        self.control_all_x_embedder = nn.ModuleDict({PATCH: nn.Linear(4 * control_in_dim, dim)})
        refiners = range(n_refiner_layers)
        if add_control_noise_refiner is None:
            plain = [ZImageTransformerBlock(1000 + n, dim, n_heads, n_kv_heads, norm_eps, qk_norm) for n in refiners]
            self.control_noise_refiner = nn.ModuleList(plain)
        else:
            self.control_noise_refiner = nn.ModuleList(
                [ControlBlock(1000 + number, first=number == 0, **shape) for number in refiners]
            )

    def forward(
        self, control: torch.Tensor, embedded: Embedded, refiners: Iterable[Callable[..., Any]], filler: torch.Tensor
    ) -> tuple[list[torch.Tensor]]:
        """The residuals, first place first: (B, N, D) behind noise refiners, then (B, N + L, D) behind layers.

        Args:
            control: latents of the control image (B, C, h, w), C up to ``control_in_dim``; missing ones are zeros.
            embedded: from the denoiser.
            refiners: the denoiser's noise refiners, frozen.
            filler: the denoiser's token that fills image tokens up, (1, D).
        """
        embedder = self.control_all_x_embedder[PATCH]
        tokens = patches(functional.pad(control, (0, 0, 0, 0, 0, self.config.control_in_dim - control.shape[1])))
        hint = embedder(tokens.to(embedder.weight.dtype))
        missing = embedded.image.shape[1] - hint.shape[1]
        hint = torch.cat([hint, filler.to(hint.dtype).expand(len(hint), missing, -1)], dim=1)
        image = embedded.image.to(hint.dtype)
        early = (None, embedded.image_places, embedded.time.to(hint.dtype))
        residuals: list[torch.Tensor] = []
        if self.config.add_control_noise_refiner is None:
            for refiner in refiners:
                image = self._run(refiner, image, *early)
            for refiner in self.control_noise_refiner:
                hint = self._run(refiner, hint, *early)
        else:
            for block in self.control_noise_refiner:
                residual, hint = self._run(block, hint, image, *early)
                residuals.append(residual)
            places = dict(zip(self.config.control_refiner_layers_places, residuals, strict=True))
            for number, refiner in enumerate(refiners):
                image = self._run(refiner, image, *early)
                image = image + places[number] if number in places else image
        captions = embedded.captions.to(hint.dtype)
        image, hint = torch.cat([image, captions], dim=1), torch.cat([hint, captions], dim=1)
        positions = torch.cat([embedded.image_places, embedded.caption_places], dim=1)
        late = (embedded.mask, positions, early[-1])
        for block in self.control_layers:
            residual, hint = self._run(block, hint, image, *late)
            residuals.append(residual)
        return (residuals,)

    def _run(self, block: Callable[..., Any], *arguments: Any) -> Any:
        return run(self, block, *arguments)


def embed(denoiser: Any, noisy: torch.Tensor, time: torch.Tensor, captions: Sequence[torch.Tensor]) -> Embedded:
    """What the denoiser's own forward begins with, without its noise refiners.

    Args:
        denoiser: diffusers' ZImageTransformer2DModel.
        noisy: latents (B, C, h, w).
        time: (B,), 0 is pure noise.
        captions: (length, width of the text) each.
    """
    time = denoiser.t_embedder(time * denoiser.t_scale).type_as(noisy)
    image, text, _, image_ids, text_ids, image_filled, text_filled = denoiser.patchify_and_embed(
        list(noisy.unsqueeze(2).unbind(0)), list(captions), 2, 1
    )

    def sequence(tokens: Any, embedder: Any, ids: Any, filled: Any, filler: Any) -> Any:
        lengths = [len(one) for one in tokens]
        embedded = embedder(torch.cat(tokens)).split(lengths)
        return denoiser._prepare_sequence(list(embedded), ids, filled, filler, None, noisy.device)

    embedders = denoiser.all_x_embedder[PATCH], denoiser.cap_embedder
    images, image_places, *_ = sequence(image, embedders[0], image_ids, image_filled, denoiser.x_pad_token)
    words, caption_places, mask, lengths, _ = sequence(
        text, embedders[1], text_ids, text_filled, denoiser.cap_pad_token
    )
    for refiner in denoiser.context_refiner:
        words = refiner(words, mask, caption_places)
    if mask is not None:
        words = torch.where(mask[..., None], words, 0)
        mask = torch.cat([mask.new_ones(len(mask), images.shape[1]), mask], dim=1)
    return Embedded(images, image_places, words, caption_places, mask, time)


def without_captions(embedded: Embedded, rows: torch.Tensor) -> Embedded:
    """The same, with caption tokens that no other token reads in some rows (B,), as in ComfyUI's control layers."""
    image = embedded.image.shape[1]
    mask = embedded.mask
    if mask is None:
        mask = embedded.image.new_ones(len(rows), image + embedded.captions.shape[1], dtype=torch.bool)
    mask = mask.clone()
    mask[:, image:] &= ~rows.to(mask.device)[:, None]
    return replace(embedded, mask=mask)


def only_image(residual: torch.Tensor, image: int, rows: torch.Tensor) -> torch.Tensor:
    """A residual (B, N + L, D) that is zero behind the N = ``image`` tokens of an image in some rows (B,)."""
    kept = torch.cat([residual[:, :image], torch.zeros_like(residual[:, image:])], dim=1)
    return torch.where(rows.to(residual.device)[:, None, None], kept, residual)


def denoise(
    denoiser: Any,
    embedded: Embedded,
    residuals: Sequence[Sequence[torch.Tensor | None]] | None,
    height: int,
    width: int,
) -> torch.Tensor:
    """The denoiser's output (B, C, height, width), with residuals from the control net or none.

    ``residuals``: behind each of its noise refiners, and behind each of its layers.

    It is the rest of diffusers' forward, and equals it. But residuals of refiners enter the denoiser's own refiners,
    too: so the published nets were trained (VideoX-Fun), and so ComfyUI draws. diffusers gives them to the control
    net's copy of the image tokens alone.
    """
    image = embedded.image
    early, late = residuals or ([None] * len(denoiser.noise_refiner), [None] * len(denoiser.layers))
    for refiner, added in zip(denoiser.noise_refiner, early, strict=True):
        image = run(denoiser, refiner, image, None, embedded.image_places, embedded.time)
        image = image if added is None else image + added
    tokens = torch.cat([image, embedded.captions], dim=1)
    positions = torch.cat([embedded.image_places, embedded.caption_places], dim=1)
    for layer, added in zip(denoiser.layers, late, strict=True):
        tokens = run(denoiser, layer, tokens, embedded.mask, positions, embedded.time)
        tokens = tokens if added is None else tokens + added
    out = denoiser.all_final_layer[PATCH](tokens, c=embedded.time)[:, : height * width // 4]
    cells = out.reshape(len(out), height // 2, width // 2, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
    return cells.reshape(len(out), -1, height, width)


def run(net: Any, block: Callable[..., Any], *arguments: Any) -> Any:
    """The output of a net's block, checkpointed where the net is."""
    if torch.is_grad_enabled() and net.gradient_checkpointing:
        return net._gradient_checkpointing_func(block, *arguments)
    return block(*arguments)


def patches(latents: torch.Tensor) -> torch.Tensor:
    """Tokens of 2 x 2 latents as Z-Image reads them: (B, C, h, w) -> (B, h/2 * w/2, 4 C), channels last."""
    batch, channels, height, width = latents.shape
    cells = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
    return cells.reshape(batch, height * width // 4, 4 * channels)


def zero(layer: nn.Linear) -> nn.Linear:
    """The layer with zero weights and bias."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
