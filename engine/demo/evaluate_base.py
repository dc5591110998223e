"""Evaluates a bundled base without a ControlNet: does it draw the shape and the colours of the caption?

    python -m engine.demo.evaluate_base --base engine/demo/base --prompts 200 --out docs/base

The second base is evaluated with --base engine/demo/transformer --scheduler own. Writes base_scores.json and
base_grid.webp into the output folder. The seed determines everything.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, LCMScheduler, UniPCMultistepScheduler
from PIL import Image, ImageDraw, ImageFont

from engine.demo.score import read_scene
from engine.demo.sets import SIDE
from engine.demo.shapes import PALETTE, SHAPES, contrast
from engine.disk.durable import atomic_write_bytes, atomic_write_text
from engine.machine.device import torch_device
from engine.machine.units import counted

SCHEDULERS = {"unipc": UniPCMultistepScheduler, "ddim": DDIMScheduler, "lcm": LCMScheduler}
OWN = "own"
"""The base's own scheduler."""
NEEDED = {"colours": 0.90, "shape": 0.85}


@dataclass(frozen=True)
class Prompt:
    shape: str
    foreground: str
    background: str

    @property
    def caption(self) -> str:
        return f"{self.foreground} {self.shape} with {self.background} background"


def choose_prompts(count: int, seed: int) -> list[Prompt]:
    """Prompts with every shape, and every colour as foreground and background, about equally often."""
    rng = np.random.default_rng([seed, 1])
    names = list(PALETTE)
    order = [name for _ in range(-(-count // len(names))) for name in rng.permutation(names)]
    prompts: list[Prompt] = []
    for number in range(count):
        foreground = str(order[number])
        partners = [name for name in names if contrast(foreground, name) > 90]
        used = Counter(prompt.background for prompt in prompts)
        least = min(used[name] for name in partners)
        background = str(rng.choice([name for name in partners if used[name] == least]))
        prompts.append(Prompt(SHAPES[number % len(SHAPES)], foreground, background))
    return prompts


def paint(
    base: Path, prompts: list[Prompt], guidance: float, steps: int, scheduler: str, batch: int, seed: int
) -> list[np.ndarray]:
    """One image for each prompt by the plain pipeline, RGB uint8. Image n starts from noise (seed, n)."""
    index = json.loads((base / "model_index.json").read_text(encoding="utf-8"))
    absent = {part: None for part, entry in index.items() if entry == [None, None]}  # T5; diffusers wants to be told
    pipeline: Any = DiffusionPipeline.from_pretrained(base, dtype=torch.float32, **absent)
    if scheduler != OWN:
        pipeline.scheduler = SCHEDULERS[scheduler].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    device = torch_device()
    pipeline.to(device)
    pictures: list[np.ndarray] = []
    began = time.monotonic()
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        noise = [torch.Generator("cpu").manual_seed(seed * 100_003 + start + n) for n in range(len(part))]
        images = pipeline(
            [prompt.caption for prompt in part],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
            height=SIDE,
            width=SIDE,
            output_type="np",
        ).images
        pictures += list(np.round(images * 255).clip(0, 255).astype(np.uint8))
        print(f"{len(pictures)}/{counted(len(prompts), 'image')}, {time.monotonic() - began:.0f} s", flush=True)
    return pictures


def measure(prompts: list[Prompt], read: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Fractions of images with the right shape and colours, and which ones are confused."""
    shape = np.array([r[0] == p.shape for p, r in zip(prompts, read, strict=True)])
    colours = np.array([r[1:] == (p.foreground, p.background) for p, r in zip(prompts, read, strict=True)])
    mixed: dict[str, Counter[str]] = {"shape": Counter(), "colour": Counter()}
    seen: dict[str, list[bool]] = {name: [] for name in PALETTE}
    for prompt, (read_shape, *read_colours) in zip(prompts, read, strict=True):
        if read_shape != prompt.shape:
            mixed["shape"][f"{prompt.shape} -> {read_shape}"] += 1
        for wanted, got in zip((prompt.foreground, prompt.background), read_colours, strict=True):
            seen[wanted].append(wanted == got)
            if wanted != got:
                mixed["colour"][f"{wanted} -> {got}"] += 1
    return {
        "prompts": len(prompts),
        "colours_right": float(colours.mean()),
        "shape_right": float(shape.mean()),
        "all_right": float((colours & shape).mean()),
        "by_shape": {
            name: {
                "prompts": int(at.sum()),
                "shape_right": float(shape[at].mean()),
                "colours_right": float(colours[at].mean()),
            }
            for name in SHAPES
            if (at := np.array([prompt.shape == name for prompt in prompts])).any()
        },
        "by_colour": {name: float(np.mean(right)) for name, right in seen.items() if right},
        "shape_confusions": dict(mixed["shape"].most_common()),
        "colour_confusions": dict(mixed["colour"].most_common()),
    }


def grid(
    prompts: list[Prompt], read: list[tuple[str, str, str]], pictures: list[np.ndarray], columns: int = 10
) -> Image.Image:
    """All images with their captions. What was recognized is added in red if it differs."""
    side, line = pictures[0].shape[0], 12
    cell = (side + 6, side + 3 * line + 4)
    sheet = Image.new("RGB", (columns * cell[0], -(-len(pictures) // columns) * cell[1]), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for number, (prompt, got, image) in enumerate(zip(prompts, read, pictures, strict=True)):
        x, y = number % columns * cell[0] + 3, number // columns * cell[1] + 2
        sheet.paste(Image.fromarray(image), (x, y))
        right = got == (prompt.shape, prompt.foreground, prompt.background)
        words = [f"{prompt.foreground} {prompt.shape}", f"on {prompt.background}"]
        words += [] if right else [f"{got[1]} {got[0]} on {got[2]}"]
        for row, text in enumerate(words):
            pen.text((x, y + side + row * line), text, fill="red" if row == 2 else "black", font=font)
        if not right:
            pen.rectangle((x - 2, y - 1, x + side + 1, y + side), outline="red", width=2)
    return sheet


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if the base is good enough, otherwise 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder of the pipeline in diffusers layout")
    parser.add_argument("--out", type=Path, required=True, help="folder for base_scores.json and base_grid.webp")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scheduler", choices=(*SCHEDULERS, OWN), default="unipc")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's own choice")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    prompts = choose_prompts(options.prompts, options.seed)
    pictures = paint(
        options.base, prompts, options.guidance, options.steps, options.scheduler, options.batch, options.seed
    )
    read = [read_scene(image) for image in pictures]
    settings = {name: getattr(options, name) for name in ("guidance", "steps", "scheduler", "seed")}
    scores = measure(prompts, read) | {"needed": NEEDED, "settings": settings}
    buffer = io.BytesIO()
    grid(prompts, read, pictures).save(buffer, "WEBP", quality=90)
    atomic_write_bytes(options.out / "base_grid.webp", buffer.getvalue())
    text = json.dumps(scores, indent=2)
    atomic_write_text(options.out / "base_scores.json", text + "\n")
    print(text)
    enough = scores["colours_right"] >= NEEDED["colours"] and scores["shape_right"] >= NEEDED["shape"]
    return 0 if enough else 1


if __name__ == "__main__":
    raise SystemExit(main())
