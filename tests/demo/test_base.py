"""The bundled base is an ordinary small diffusers pipeline that follows its prompt."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler

from engine.demo.score import read_scene
from engine.demo.shapes import BLOB, PALETTE, SHAPES
from engine.families.registry import detect
from engine.workspace.paths import DEMO_BASE


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    """The base, loaded by diffusers only."""
    loaded = StableDiffusionPipeline.from_pretrained(DEMO_BASE, dtype=torch.float32)
    loaded.scheduler = UniPCMultistepScheduler.from_config(loaded.scheduler.config)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_base_is_small_and_in_safetensors() -> None:
    weights = list(DEMO_BASE.rglob("*.safetensors"))
    assert len(weights) == 3
    assert sum(path.stat().st_size for path in weights) <= 8_000_000
    assert not list(DEMO_BASE.rglob("*.bin")) + list(DEMO_BASE.rglob("*.py"))


def test_the_base_is_sd1_with_its_noise_schedule(pipeline: StableDiffusionPipeline) -> None:
    assert detect(str(DEMO_BASE)).name == "sd1"
    schedule = pipeline.scheduler.config
    assert (schedule.beta_start, schedule.beta_end, schedule.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert schedule.prediction_type == "epsilon"
    assert pipeline.unet.config.sample_size * 8 == 128


def test_caption_words_are_single_tokens_and_others_are_spelled(pipeline: StableDiffusionPipeline) -> None:
    words = {word for name in [*PALETTE, *SHAPES, BLOB, "with background"] for word in name.split()}
    assert {word: len(pipeline.tokenizer.tokenize(word)) for word in words} == dict.fromkeys(words, 1)
    assert pipeline.tokenizer.decode(pipeline.tokenizer("zebra").input_ids, skip_special_tokens=True).strip() == "zebra"


def test_the_base_generates_the_captions_colours(pipeline: StableDiffusionPipeline) -> None:
    pairs = [("red", "navy"), ("white", "green"), ("yellow", "purple"), ("teal", "pink")]
    prompts = [f"{fg} {shape} with {bg} background" for (fg, bg), shape in zip(pairs, SHAPES, strict=True)]
    generator = [torch.Generator().manual_seed(seed) for seed in range(4)]
    images = pipeline(prompts, num_inference_steps=20, guidance_scale=3.0, generator=generator, output_type="np").images
    read = [read_scene((image * 255).round().astype("uint8")) for image in images]
    right = sum((fg, bg) == pair for (_, fg, bg), pair in zip(read, pairs, strict=True))
    assert right >= 3, read
