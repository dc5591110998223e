"""An image that does not fit into memory goes through the VAE in tiles, the largest that fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import engine.demo
from engine.data.crop_plan import CropPlan
from engine.data.scan import scan_folder
from engine.families import tiles
from engine.families.registry import detect
from tests.data.test_cache import build

BASE = Path(engine.demo.__file__).parent / "base"
FAMILY = detect(str(BASE))


def discs(width: int, height: int) -> torch.Tensor:
    """Coloured discs on grey, as this VAE knows them: (1, 3, height, width) in -1..1."""
    generator, image = torch.Generator().manual_seed(1), torch.full((3, height, width), -0.4)
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for _ in range(20):
        x, y, radius = torch.rand(3, generator=generator) * torch.tensor([width, height, 30])
        image[:, (across - x) ** 2 + (down - y) ** 2 < (radius + 8) ** 2] = (
            torch.rand(3, 1, generator=generator) * 2 - 1
        )
    return image[None]


def short_of_memory(monkeypatch: pytest.MonkeyPatch, part: Any, most: Callable[[], int]) -> list[int]:
    """Let the encoder or decoder run out of memory for inputs with a side above ``most``. Returns the sides it saw."""
    seen: list[int] = []
    forward = part.forward

    def tight(inputs: torch.Tensor) -> torch.Tensor:
        seen.append(max(inputs.shape[-2:]))
        if seen[-1] > most():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(inputs)

    monkeypatch.setattr(part, "forward", tight)
    return seen


@torch.no_grad()
def test_tiles_are_as_large_as_fits_and_latents_and_image_stay_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SIDES", (128, 64))
    vae: Any = FAMILY.load_vae(str(BASE))
    image, off = discs(256, 192), {}
    plain, _ = FAMILY.encode_images(vae, image)
    decoded = FAMILY.decode_latents(vae, FAMILY.latent_space(str(BASE)).scaled(plain))
    for most in (128, 64):
        with monkeypatch.context() as patched:
            seen = short_of_memory(patched, vae.encoder, lambda: most)  # noqa: B023
            mean, logvar = FAMILY.encode_images(vae, image)
            assert seen[0] == 256 and max(seen[-6:]) == most and tiles.in_tiles(vae, 256)
            assert mean.shape == logvar.shape == plain.shape
            off[most] = float((mean - plain).square().mean().sqrt() / plain.std())
            short_of_memory(patched, vae.decoder, lambda: most // 8)  # noqa: B023
            shown = FAMILY.decode_latents(vae, FAMILY.latent_space(str(BASE)).scaled(plain))
            assert float((shown - decoded).square().mean().sqrt() / decoded.std()) < 0.1
        vae.disable_tiling()
    assert off[128] < 0.05 and off[64] < 0.1, "in standard deviations of the latents"
    assert off[128] < off[64], "which is why the largest tiles are taken"


@torch.no_grad()
def test_small_images_and_several_at_once_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SIDES", (128, 64))
    vae: Any = FAMILY.load_vae(str(BASE))
    short_of_memory(monkeypatch, vae.encoder, lambda: 8)
    for images in (discs(64, 64), discs(256, 64).repeat(2, 1, 1, 1)):
        with pytest.raises(torch.OutOfMemoryError):
            FAMILY.encode_images(vae, images)
        assert not vae.use_tiling, "several are tried one by one first (EncoderBatches)"


def test_the_cache_says_once_that_it_encodes_in_tiles(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.families.stable_diffusion import StableDiffusion

    monkeypatch.setattr(tiles, "SIDES", (64,))
    folder = tmp_path / "large"
    folder.mkdir()
    for name in "ab":
        Image.linear_gradient("L").convert("RGB").resize((128, 128)).save(folder / f"{name}.png")
    load = StableDiffusion.load_vae

    def load_tight(family: Any, base: str) -> Any:
        vae: Any = load(family, base)
        short_of_memory(monkeypatch, vae.encoder, lambda: 64)
        return vae

    monkeypatch.setattr(StableDiffusion, "load_vae", load_tight)
    messages: list[str] = []
    cache = build(
        tmp_path / "cache", tiny_base, scan_folder(folder).samples, plan=CropPlan(128), on_message=messages.append
    )
    assert cache.count == 2
    assert [words for words in messages if "tiles" in words] == messages[1:] and len(messages) == 2, messages
