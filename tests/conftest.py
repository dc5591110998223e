"""Fixtures for every test: one thread, real photographs, a workspace, and a tiny random base to run pipelines on."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: tests share the machine with other work

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums over several threads may differ in the last bit from one run to the next."""
    try:
        import torch
    except ImportError:  # the installer's tests run before torch is there
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """Photographs that come with scikit-image, RGB uint8 (h, w, 3)."""
    from skimage import data

    return {name: getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable-Diffusion-1-shaped pipeline folder (fp32) with random, seeded weights.

    Its autoencoder passes colours through, the rest knows nothing. Made for pictures of 64 px.
    """
    import torch
    from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    from engine.demo import build_base

    folder = tmp_path_factory.mktemp("tiny_base")
    tokenizer = build_base.build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = build_base.build_vae()
        build_base.pass_colours_through(vae)
        text_encoder = build_base.build_text_encoder(tokenizer)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder
