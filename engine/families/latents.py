"""The latent space of a base's VAE: its shape, and the scale at which the denoiser sees it. No torch until used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LatentSpace:
    """Latents have ``channels`` channels and are ``factor`` times smaller than the image in each direction.

    The denoiser sees ``(latents - shift) * scale``. The defaults are those of Stable Diffusion 1.
    """

    channels: int = 4
    factor: int = 8
    scale: float = 0.18215
    shift: float = 0.0

    @classmethod
    def from_config(cls, vae: Mapping[str, Any]) -> LatentSpace:
        """Read from a VAE's config; entries that are missing or None keep their default."""
        blocks, plain = vae.get("block_out_channels"), cls()
        return cls(
            channels=int(vae.get("latent_channels") or plain.channels),
            factor=2 ** (len(blocks) - 1) if blocks else plain.factor,
            scale=float(vae.get("scaling_factor") or plain.scale),
            shift=float(vae.get("shift_factor") or plain.shift),
        )

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(channels, h, w) of the latents of an image of ``width`` x ``height`` pixels."""
        return self.channels, height // self.factor, width // self.factor

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) as the tokens of a transformer, (B, h / 2 * w / 2, 4 C): each is a square of 2 x 2.

        The order is that of Flux and Stable Diffusion 3 in diffusers: channel, row, column.
        """
        count, channels, height, width = latents.shape
        squares = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
        return squares.permute(0, 2, 4, 1, 3, 5).reshape(count, height // 2 * (width // 2), channels * 4)

    def unpack(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The inverse of ``pack``. ``height``, ``width``: of the latents."""
        count, _, inner = tokens.shape
        squares = tokens.reshape(count, height // 2, width // 2, inner // 4, 2, 2)
        return squares.permute(0, 3, 1, 4, 2, 5).reshape(count, inner // 4, height, width)

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The VAE's latents as the denoiser sees them."""
        return (latents - self.shift) * self.scale

    def sample(self, mean: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A sample of the VAE's posterior (B, C, h, w), scaled. ``noise`` is standard normal, of the same shape."""
        std = (0.5 * logvar.clamp(-30.0, 20.0)).exp()
        return self.scaled(mean + std * noise)

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of ``scaled``: what the VAE decodes."""
        return latents / self.scale + self.shift
