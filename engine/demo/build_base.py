"""Trains the bundled tiny base, a Stable-Diffusion-1-shaped pipeline for 128 x 128 images.

    python -m engine.demo.build_base --work base_work --out engine/demo/base

All random numbers depend on (seed, step). Both stages (the autoencoder, then UNet and text encoder together) are
resumed from the work folder if the command is started again. About two hours on two CPU cores.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.demo.build_autoencoder import cosine_lr, random_crop, save_state, train_autoencoder
from engine.demo.shapes import BLOB, PALETTE, SHAPES, draw, random_scene

SEED = 20
SIZE = 128
VAE_CROPS = (
    (16, 64),
    (32, 32),
    (64, 12),
)  # (side, batch size): the autoencoder is convolutional, and small crops teach colours fastest
TEXT_LENGTH = 32
POOL = 16_384  # images that are encoded once and sampled from; in 6,800 steps of 16 each is seen about 7 times
SAMPLING_WEIGHTS = {"circle": 0.75, "square": 1.4, "triangle": 1.4, "star": 1.4, "blob": 0.4}


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Builds a byte-pair tokenizer in CLIP's format whose merges cover the words of the captions."""
    words = " ".join([*PALETTE, *SHAPES, BLOB, "with background a an on the and of picture photo flat"]).split()
    model = Tokenizer(BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    model.pre_tokenizer = ByteLevel(add_prefix_space=False)
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=10_000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False, min_frequency=1
    )
    model.train_from_iterator(words, trainer)
    merges = [tuple(merge) for merge in json.loads(model.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *dict.fromkeys("".join(m) for m in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TEXT_LENGTH)


def pass_colours_through(vae: AutoencoderKL) -> None:
    """Initializes the autoencoder near the identity on colours. Otherwise, learning them takes ten times the steps.

    Residual branches start at zero (as in Fixup, arXiv 1901.09321), the other convolutions near a Dirac kernel, one
    constant channel lets the final normalization keep the amplitude, and the posterior starts narrow.
    """
    with torch.no_grad():
        for name, module in vae.named_modules():
            if not isinstance(module, torch.nn.Conv2d):
                continue
            if name.endswith("conv2"):
                module.weight.zero_()
                module.bias.zero_()
            elif not name.endswith("conv1"):
                spread = module.weight.clone()
                torch.nn.init.dirac_(module.weight)
                module.weight.add_(0.2 * spread)
                module.bias.zero_()
        vae.encoder.conv_in.bias[5] = 2.0
        vae.decoder.conv_in.bias[5] = 2.0
        before_the_split = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv
        before_the_split.bias[vae.config.latent_channels :] = -5.0


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 48),
        layers_per_block=1,
        norm_num_groups=1,  # with two channels per group, normalizing a flat area leaves one bit of its colour
        latent_channels=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(48, 64, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pictures(first: int, count: int) -> tuple[torch.Tensor, list[str]]:
    """Images ``first`` to ``first + count``: (count, 3, 128, 128) in -1..1, and their captions."""
    scenes = [random_scene(np.random.default_rng([SEED, i])) for i in range(first, first + count)]
    stack = np.stack([draw(scene, SIZE) for scene in scenes])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1, [scene.caption for scene in scenes]


def train_vae(work: Path, steps: int) -> AutoencoderKL:
    """Train the VAE, or continue from ``work``. Returns it frozen, with its scaling factor set."""
    torch.manual_seed(SEED)
    vae = build_vae()
    pass_colours_through(vae)

    def batch_of(step: int, generator: torch.Generator) -> torch.Tensor:
        side, batch = VAE_CROPS[min(2, 3 * step // steps)]
        return random_crop(pictures(10_000_000 + step * 64, batch)[0], side, generator)

    train_autoencoder(vae, batch_of, work, steps, peak=2e-3, warmup=100, seed=SEED)
    with torch.no_grad():
        latents = vae.encode(pictures(0, 256)[0]).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return vae


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, work: Path) -> tuple[torch.Tensor, list[str]]:
    """Scaled latents of the POOL training images, (POOL, C, h, w), and their captions. Kept in ``work``."""
    path = work / "pool.pt"
    captions = [random_scene(np.random.default_rng([SEED, i])).caption for i in range(POOL)]
    if path.exists():
        return torch.load(path, weights_only=True), captions
    parts = [vae.encode(pictures(i, 64)[0]).latent_dist.mean for i in range(0, POOL, 64)]
    pool = torch.cat(parts) * vae.config.scaling_factor
    save_state(path, pool)
    return pool, captions


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids, (captions, TEXT_LENGTH), padded or truncated."""
    options = {"padding": "max_length", "max_length": TEXT_LENGTH, "truncation": True, "return_tensors": "pt"}
    return tokenizer(captions, **options).input_ids


def export(out: Path, vae, unet, text_encoder, tokenizer, scheduler) -> None:
    """Write the pipeline in fp16, as diffusers saves it."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)


def train_unet(work: Path, out: Path, vae: AutoencoderKL, steps: int, batch: int = 16) -> None:
    """Train UNet and text encoder, or continue from ``work``, and export the base to ``out``."""
    tokenizer = build_tokenizer(work / "tokenizer")
    torch.manual_seed(SEED + 1)
    unet, text_encoder = build_unet(), build_text_encoder(tokenizer)
    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    model = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    path, start = work / "unet.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    pool, captions = encode_pool(vae, work)
    tokens, empty = tokenize(tokenizer, captions), tokenize(tokenizer, [""])
    # Corners are learned last, blobs first, so shapes with corners are sampled more often.
    weights = torch.tensor([SAMPLING_WEIGHTS[caption.split(" with ")[0].split()[-1]] for caption in captions])
    began, running = time.time(), 0.0
    for step in range(start, steps):
        generator = torch.Generator().manual_seed(SEED * 7_000_003 + step)
        rows = torch.multinomial(weights, batch, replacement=True, generator=generator)
        latents, ids = pool[rows], tokens[rows].clone()
        ids[torch.rand(batch, generator=generator) < 0.1] = empty
        # Half of the timesteps are noisy ones, at which colours are decided.
        uniform = torch.rand(batch, generator=generator)
        timesteps = torch.where(torch.arange(batch) % 2 == 0, uniform * 1000, 650 + uniform * 350).long()
        # Offset noise: without it, predicting noise learns an image's mean colour very slowly.
        offset = torch.randn((batch, 4, 1, 1), generator=generator)
        noise = torch.randn(latents.shape, generator=generator) + 0.1 * offset
        hidden = text_encoder(ids)[0]
        predicted = unet(scheduler.add_noise(latents, noise, timesteps), timesteps, hidden).sample
        loss = F.mse_loss(predicted, noise)
        for group in optimizer.param_groups:
            group["lr"], group["fused"] = cosine_lr(step, steps, 1e-3), True
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(0.9985, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        running = loss.item() if step == start else 0.99 * running + 0.01 * loss.item()
        if (step + 1) % 100 == 0:
            speed = (time.time() - began) / (step + 1 - start)
            left = speed * (steps - step - 1) / 60
            print(f"unet {step + 1}/{steps} loss {running:.4f} {speed:.3f} s/step, {left:.0f} min left", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            parts = {"model": model.state_dict(), "average": average.state_dict(), "step": step + 1}
            save_state(path, {**parts, "optimizer": optimizer.state_dict()})
            averaged = copy.deepcopy(average)
            export(out, copy.deepcopy(vae), averaged["unet"], averaged["text_encoder"], tokenizer, scheduler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the resumable state")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the diffusers pipeline")
    parser.add_argument("--vae-steps", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=6800)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    vae = train_vae(arguments.work, arguments.vae_steps)
    train_unet(arguments.work, arguments.out, vae, arguments.steps)


if __name__ == "__main__":
    main()
