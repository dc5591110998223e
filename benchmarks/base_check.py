"""The error of a bare base at each noise level, read as a base for noise and as one for velocity.

    python -m benchmarks.base_check BASE [BASE ...] [--images FOLDER] [--side PIXELS]

BASE is a folder in diffusers layout, a single file, or "demo". Without FOLDER the images are the demo's coloured shapes
and photographs that come with scikit-image. Texts of the same name beside the images of FOLDER are their captions. The
errors are those of engine/training/base_check.py: 0 is exact, 1 is what remains without any knowledge of images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bases", nargs="+", metavar="BASE")
    parser.add_argument("--images", type=Path, metavar="FOLDER")
    parser.add_argument("--side", type=int, default=0, metavar="PIXELS")
    options = parser.parse_args()
    images = (
        {"own": of_folder(options.images)} if options.images else {"shapes": shapes(), "photographs": photographs()}
    )
    for base in options.bases:
        print("\n".join(table(str(DEMO_BASE) if base == "demo" else base, images, options.side)), flush=True)


if __name__ == "__main__":
    main()
