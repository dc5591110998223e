"""The error of a bare base at each noise level, read as a base for noise and as one for velocity.

    python -m benchmarks.base_check BASE [BASE ...] [--images FOLDER] [--side PIXELS]
    python -m benchmarks.base_check OUT --make-velocity

BASE is a folder in diffusers layout, a single file, or "demo". Without FOLDER the images are the demo's coloured shapes
and photographs that come with scikit-image. Texts of the same name beside the images of FOLDER are their captions. The
errors are those of engine/training/base_check.py: 0 is exact, 1 is what remains without any knowledge of images.

--make-velocity first trains the demo's base on to predict velocity, and writes it to OUT with configs that still say
noise: a real base of that kind, wrongly marked. 400 steps, a few minutes on one core.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.demo.build_base import cosine_lr, pictures
from engine.demo.shapes import draw, random_scene
from engine.disk.images import load_rgb
from engine.families.registry import detect
from engine.training.base_check import LEVELS, BaseCheck, Pairs, errors
from engine.workspace.paths import DEMO_BASE

COUNT = 4
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
Images = list[tuple[Image.Image, str]]


def shapes() -> Images:
    """Coloured shapes, which the bundled base knows."""
    scenes = [random_scene(np.random.default_rng([5, number])) for number in range(COUNT)]
    return [(Image.fromarray(draw(scene, 512)), scene.caption) for scene in scenes]


def photographs() -> Images:
    """Photographs from scikit-image."""
    from skimage import data

    captions = {"astronaut": "an astronaut", "coffee": "a cup of coffee", "chelsea": "a cat", "rocket": "a rocket"}
    return [(Image.fromarray(getattr(data, name)()), caption) for name, caption in captions.items()]


def of_folder(folder: Path) -> Images:
    """The first images of a folder, with their captions."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS][:COUNT]
    texts = [path.with_suffix(".txt") for path in paths]
    captions = [text.read_text(encoding="utf-8").strip() if text.is_file() else "" for text in texts]
    return [(load_rgb(path), caption) for path, caption in zip(paths, captions, strict=True)]


@torch.no_grad()
def table(base: str, images: dict[str, Images], side: int = 0) -> list[str]:
    """Lines of the table of one base. ``side``: of the images in pixels; 0: the side that the base was made for."""
    family, process = detect(base), detect(base).noise_process(base)
    side = side or family.default_resolution(base)
    denoiser, vae = family.load_denoiser(base, torch.float32), family.load_vae(base)
    words, encoder = family.load_tokenizer(base), family.load_text_encoder(base, torch.float32)
    readings = process.readings() or {process.prediction: process}
    lines = ["", f"{base}: {process.description}, images of {side} px"]
    lines.append(f"{'images':<12} {'read as':<8} " + " ".join(f"{level:>6g}" for level in LEVELS) + "   mean")
    for name, listed in images.items():
        pixels = torch.stack([_pixels(image, side) for image, _ in listed])
        pairs = Pairs(
            latents=family.encode_mean(vae, pixels),
            noise=torch.randn((len(listed), *family.latents.shape(side, side)), generator=torch.manual_seed(0)),
            text=family.encode_text(words, encoder, [caption for _, caption in listed]),
            sizes=torch.tensor([[side, side, 0, 0, side, side]] * len(listed), dtype=torch.float32),
        )
        check = BaseCheck(errors(family, denoiser, torch.float32, pairs, readings, 1))
        for reading, at_levels in check.errors.items():
            figures = " ".join(f"{error:6.2f}" for error in at_levels)
            lines.append(f"{name:<12} {reading:<8} {figures} {check.error(reading):6.2f}")
        lines.append(f"{name:<12} decided: {check.decided or 'no'}")
    return lines


def _pixels(image: Image.Image, side: int) -> torch.Tensor:
    """The middle square, RGB in -1..1, (3, side, side)."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = (
        image.convert("RGB").crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.LANCZOS)
    )
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1).float() / 127.5 - 1


def make_velocity(out: Path, steps: int = 400, pool: int = 256, batch: int = 8) -> None:
    """Train the demo's base to predict velocity (Salimans and Ho 2022, arXiv 2202.00512); its configs say noise."""
    base = str(DEMO_BASE)
    family = detect(base)
    process = family.noise_process(base).readings()["v"]
    unet, vae = family.load_denoiser(base, torch.float32), family.load_vae(base)
    words, encoder = family.load_tokenizer(base), family.load_text_encoder(base, torch.float32)
    with torch.no_grad():
        parts = [(family.encode_mean(vae, images), captions) for images, captions in map(_some, range(0, pool, 64))]
        latents = torch.cat([encoded for encoded, _ in parts])
        captions = [caption for _, listed in parts for caption in listed]
        tables = [family.encode_text(words, encoder, captions[n : n + 64]) for n in range(0, pool, 64)]
        text = {name: torch.cat([table[name] for table in tables]) for name in tables[0]}
    unet.requires_grad_(True)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3, fused=True)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(pool, (batch,), generator=generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        timesteps = torch.randint(process.num_train_timesteps, (batch,), generator=generator)
        noisy = process.add_noise(latents[rows], noise, timesteps)
        some = {name: table[rows] for name, table in text.items()}
        predicted = family.predict(unet, None, noisy, timesteps, some, None)
        loss = (predicted - process.target(latents[rows], noise, timesteps)).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(step, steps, 1e-3, 50)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"{step + 1:,} steps, loss {loss.item():.4f}", flush=True)
    shutil.copytree(base, out)
    unet.half().save_pretrained(out / family.facts.denoiser)


def _some(first: int) -> tuple[torch.Tensor, list[str]]:
    return pictures(first, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bases", nargs="+", metavar="BASE")
    parser.add_argument("--images", type=Path, metavar="FOLDER")
    parser.add_argument("--side", type=int, default=0, metavar="PIXELS")
    parser.add_argument("--make-velocity", action="store_true", help="first make BASE, one of the demo's kind")
    options = parser.parse_args()
    if options.make_velocity:
        make_velocity(Path(options.bases[0]))
    images = (
        {"own": of_folder(options.images)} if options.images else {"shapes": shapes(), "photographs": photographs()}
    )
    for base in options.bases:
        print("\n".join(table(str(DEMO_BASE) if base == "demo" else base, images, options.side)), flush=True)


if __name__ == "__main__":
    main()
