"""Trains the second bundled base, a Stable-Diffusion-3-shaped transformer for the same images of 128 x 128.

    python -m engine.demo.build_transformer --work base_work --out engine/demo/transformer

The autoencoder gets 16 channels, as Stable Diffusion 3 has, and starts from that of the first base; so do the text
encoders. All random numbers depend on (seed, step). Both stages (the autoencoder, then transformer and text encoders
together) are resumed from the work folder if the command is started again. About an hour on two CPU cores.
With ``--start`` it continues from the weights of a base that was exported; the autoencoder stays as it is.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from engine.demo.build_autoencoder import cosine_lr, random_crop, save_state, train_autoencoder
from engine.demo.build_base import SAMPLING_WEIGHTS, SIZE, pictures, tokenize
from engine.demo.build_base import SEED as IMAGES_SEED
from engine.demo.build_transformer_parts import CHANNELS, SHIFT, Base, Muon, build_vae, export
from engine.demo.circles import outline
from engine.demo.evaluate_base import choose_prompts, grid, measure
from engine.demo.score import read_scene
from engine.demo.shapes import random_scene
from engine.workspace.paths import DEMO_BASE

SEED = 30
POOL = 12_288  # images that are encoded once and sampled from
CROP = 64  # the autoencoder is convolutional
EDGES = 2.5
PEAK = 3e-3  # learning rate


def outlines(first: int, count: int) -> torch.Tensor:
    """Control images of the demo, (count, 3, 128, 128) in -1..1: the transformer's ControlNet reads their latents."""
    scenes = [random_scene(np.random.default_rng([SEED, i])) for i in range(first, first + count)]
    stack = np.stack([outline(scene, SIZE) for scene in scenes])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1


def exported_vae(base: Path) -> AutoencoderKL:
    """The VAE of an exported base, frozen."""
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(base, subfolder="vae", torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False)


def train_vae(work: Path, steps: int) -> AutoencoderKL:
    """Train the VAE, or continue from ``work``. Returns it frozen, with its scaling and shift set."""
    torch.manual_seed(SEED)
    vae = build_vae()

    def batch_of(step: int, generator: torch.Generator) -> torch.Tensor:
        shapes, lines = pictures(20_000_000 + step * 16, 12)[0], outlines(30_000_000 + step * 16, 4)
        return random_crop(torch.cat([shapes, lines]), CROP, generator)

    train_autoencoder(vae, batch_of, work, steps, peak=1e-3, warmup=50, seed=SEED)
    with torch.no_grad():
        # The first four channels carry the colours, the others edges: these are made larger, or noise would hide them.
        vae.encoder.conv_out.weight[4:CHANNELS] *= EDGES
        vae.encoder.conv_out.bias[4:CHANNELS] *= EDGES
        vae.encoder.conv_out.bias[CHANNELS + 4 :] += 2 * math.log(EDGES)
        vae.decoder.conv_in.weight[:, 4:] /= EDGES
        latents = vae.encode(pictures(0, 256)[0]).latent_dist.mean
    vae.register_to_config(
        shift_factor=round(latents.mean().item(), 4), scaling_factor=round(1 / latents[:, :4].std().item(), 4)
    )
    return vae


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, work: Path) -> tuple[torch.Tensor, list[str]]:
    """The VAE's latents of the POOL training images, (POOL, 16, 16, 16) fp16, and their captions. Kept in ``work``."""
    path = work / "pool.pt"
    captions = [random_scene(np.random.default_rng([IMAGES_SEED, i])).caption for i in range(POOL)]
    if path.exists():
        return torch.load(path, weights_only=True), captions
    parts = []
    for first in range(0, POOL, 64):
        parts.append(vae.encode(pictures(first, 64)[0]).latent_dist.mean.half())
        if first % 4096 == 0:
            print(f"encoded {first}/{POOL}", flush=True)
    pool = torch.cat(parts)
    save_state(path, pool)
    return pool, captions


@dataclass(frozen=True)
class Plan:
    """How transformer and text encoders are trained."""

    steps: int
    batch: int
    workers: int
    """Threads, each of which computes a part of the batch."""
    peak: float
    """Learning rate."""
    seed: int
    start: Path | None
    """An exported base whose weights the training starts from."""


def train_transformer(work: Path, out: Path, vae: AutoencoderKL, plan: Plan) -> None:
    """Train transformer and text encoders, or continue from ``work``, and export the base to ``out``."""
    steps, batch, workers = plan.steps, plan.batch, plan.workers
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_BASE, subfolder="tokenizer")
    torch.manual_seed(plan.seed + 1)
    model = Base(tokenizer)
    if plan.start is not None:
        model.start_from(plan.start)
    average = copy.deepcopy(model).requires_grad_(False)
    in_blocks = {
        name: parameter
        for name, parameter in model.transformer.transformer_blocks.named_parameters()
        if parameter.ndim == 2 and (".attn." in name or ".ff" in name)
    }
    chosen = {id(parameter) for parameter in in_blocks.values()}
    muon = Muon(list(in_blocks.values()))
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    adam = torch.optim.AdamW(rest, lr=plan.peak, betas=(0.9, 0.99), weight_decay=0.0)
    path, start = work / "transformer.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        adam.load_state_dict(state["adam"])
        muon.momenta, start = state["muon"], state["step"]
    twins = [model] + [copy.deepcopy(model) for _ in range(workers - 1)]
    for twin in twins[1:]:  # the same weights, other gradients: each computes its part of the batch on a processor
        for mine, shared in zip(twin.parameters(), model.parameters(), strict=True):
            mine.data = shared.data
    pool, captions = encode_pool(vae, work)
    tokens, empty = tokenize(tokenizer, captions), tokenize(tokenizer, [""])
    weights = torch.tensor([SAMPLING_WEIGHTS[caption.split(" with ")[0].split()[-1]] for caption in captions])
    began, running = time.time(), 0.0

    def part(twin: Base, noisy: torch.Tensor, sigma: torch.Tensor, ids: torch.Tensor, target: torch.Tensor) -> float:
        # sigma^2 times the error of the flow is the error of the image: it is the noisy end that decides the layout.
        error = (twin(noisy, sigma, ids) - target).square().mean(dim=(1, 2, 3))
        loss = (2 * sigma**2 * error).mean()
        (loss / workers).backward()
        return loss.item()

    executor = ThreadPoolExecutor(workers)
    for step in range(start, steps):
        generator = torch.Generator().manual_seed(plan.seed * 7_000_003 + step)
        rows = torch.multinomial(weights, batch, replacement=True, generator=generator)
        latents, ids = (pool[rows].float() - vae.config.shift_factor) * vae.config.scaling_factor, tokens[rows].clone()
        ids[torch.rand(batch, generator=generator) < 0.1] = empty
        even = torch.sigmoid(torch.randn(batch, generator=generator))
        sigma = SHIFT * even / (1 + (SHIFT - 1) * even)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = torch.lerp(latents, noise, sigma[:, None, None, None])
        model.zero_grad(set_to_none=True)
        inputs = [tensor.chunk(workers) for tensor in (noisy, sigma, ids, noise - latents)]
        loss = sum(executor.map(part, twins, *inputs)) / workers
        for twin in twins[1:]:
            for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
                if theirs.grad is not None:
                    mine.grad += theirs.grad
            twin.zero_grad(set_to_none=True)
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        rate = cosine_lr(step, steps, plan.peak)
        adam.param_groups[0]["lr"] = rate
        adam.step()
        muon.step(rate)
        decay = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        running = loss if step == start else 0.98 * running + 0.02 * loss
        if (step + 1) % 20 == 0:
            speed = (time.time() - began) / (step + 1 - start)
            left = speed * (steps - step - 1) / 60
            print(f"step {step + 1}/{steps} loss {running:.4f} {speed:.3f} s/step, {left:.0f} min left", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            parts = {"model": model.state_dict(), "average": average.state_dict(), "step": step + 1}
            save_state(path, {**parts, "adam": adam.state_dict(), "muon": muon.momenta})
            look(work, vae, average, tokenizer, step + 1)
            export(out, copy.deepcopy(vae), copy.deepcopy(average), tokenizer)


def look(work: Path, vae: AutoencoderKL, model: Base, tokenizer: CLIPTokenizer, step: int) -> None:
    """Draw 24 prompts, 20 steps of Euler at guidance scale 3, and say how many have the right shape and colours."""
    prompts = choose_prompts(24, 0)
    images = draw_images(vae, model, tokenizer, [prompt.caption for prompt in prompts])
    read = [read_scene(image) for image in images]
    grid(prompts, read, images, 8).save(work / f"images-{step:05}.webp", quality=85)
    scores = measure(prompts, read)
    told = {name: round(scores[name], 2) for name in ("shape_right", "colours_right", "all_right")}
    print(f"step {step} {told}", flush=True)


@torch.no_grad()
def draw_images(vae: AutoencoderKL, model: Base, tokenizer: CLIPTokenizer, captions: list[str]) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(SEED)
    latents = torch.randn((len(captions), CHANNELS, SIZE // 8, SIZE // 8), generator=generator)
    ids = tokenize(tokenizer, captions + [""] * len(captions))
    even = torch.linspace(1, 0, 21)
    sigmas = SHIFT * even / (1 + (SHIFT - 1) * even)
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        told, plain = model(torch.cat([latents] * 2), sigma.expand(2 * len(latents)), ids).chunk(2)
        latents = latents + (following - sigma) * (plain + 3 * (told - plain))
    decoded = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    return list(((decoded.permute(0, 2, 3, 1).clamp(-1, 1) + 1) * 127.5).round().byte().numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the resumable state")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the diffusers pipeline")
    parser.add_argument("--vae-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", type=float, default=PEAK, help="learning rate")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--start", type=Path, help="exported base to continue from")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    vae = exported_vae(options.start) if options.start else train_vae(options.work, options.vae_steps)
    encode_pool(vae, options.work)
    torch.set_num_threads(1)
    plan = Plan(options.steps, options.batch, options.threads, options.peak, options.seed, options.start)
    train_transformer(options.work, options.out, vae, plan)


if __name__ == "__main__":
    main()
