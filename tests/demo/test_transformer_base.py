"""The second bundled base is an ordinary small Stable Diffusion 3 pipeline that follows its prompt."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline

from engine.demo.build_transformer_parts import TEXT_WIDTH
from engine.demo.score import read_scene
from engine.demo.shapes import SHAPES
from engine.families.registry import detect
from engine.workspace.paths import DEMO_TRANSFORMER

BASE = str(DEMO_TRANSFORMER)
DIGEST = "60be57c3606c75f13010da35ab072733a974b59762fa460f755df7b1e5eb11a0"
"""Of the four files of weights, in the order of their folders."""


def test_its_files_are_small_whole_and_in_the_ordinary_layout() -> None:
    weights = sorted(DEMO_TRANSFORMER.rglob("*.safetensors"))
    folders = ["text_encoder", "text_encoder_2", "transformer", "vae"]
    assert [path.parent.name for path in weights] == folders
    assert sum(path.stat().st_size for path in DEMO_TRANSFORMER.rglob("*.*")) <= 8_000_000
    assert not list(DEMO_TRANSFORMER.rglob("*.bin")) + list(DEMO_TRANSFORMER.rglob("*.py"))
    index = json.loads((DEMO_TRANSFORMER / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StableDiffusion3Pipeline" and index["text_encoder_3"] == [None, None]
    assert hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest() == DIGEST


def test_without_a_trained_net_control_changes_nothing_bit_for_bit() -> None:
    family = detect(BASE)
    assert (family.name, family.latent_space(BASE).channels) == ("sd3", 16)
    denoiser = family.load_denoiser(BASE, torch.float32)
    assert denoiser.config.sample_size * 8 == 128
    generator = torch.Generator().manual_seed(0)
    noisy, control = (torch.randn((2, 16, 16, 16), generator=generator) for _ in range(2))
    text = {
        "hidden": torch.randn((2, 40, TEXT_WIDTH), generator=generator),
        "pooled": torch.randn((2, 96), generator=generator),
    }
    sigmas = torch.tensor([0.9, 0.2])
    with torch.no_grad():
        plain = family.predict(denoiser, None, noisy, sigmas, text, None)
        assert torch.equal(
            family.predict(denoiser, family.new_controlnet(denoiser, 3), noisy, sigmas, text, control), plain
        )


def test_it_draws_a_shape_in_the_captions_colours() -> None:
    pipeline: Any = StableDiffusion3Pipeline.from_pretrained(
        BASE, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    pairs = [("red", "navy"), ("white", "green"), ("yellow", "purple"), ("teal", "pink")]
    prompts = [f"{fg} {shape} with {bg} background" for (fg, bg), shape in zip(pairs, SHAPES, strict=True)]
    generator = [torch.Generator().manual_seed(seed) for seed in range(4)]
    images = pipeline(
        prompts,
        height=128,
        width=128,
        num_inference_steps=10,
        guidance_scale=3.0,
        generator=generator,
        output_type="np",
    ).images
    read = [read_scene((image * 255).round().astype("uint8")) for image in images]
    right = sum((fg, bg) == pair for (_, fg, bg), pair in zip(read, pairs, strict=True))
    assert right >= 3, read
