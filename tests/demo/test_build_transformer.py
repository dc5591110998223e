"""The script that trained the second bundled base: what it computes is what the base computes in any program."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from engine.demo.build_base import tokenize
from engine.demo.build_transformer_parts import CHANNELS, Base, Muon, build_vae
from engine.families.sd3 import StableDiffusion3
from engine.workspace.paths import DEMO_BASE, DEMO_TRANSFORMER


def test_it_continues_from_an_exported_base_and_computes_what_the_app_computes() -> None:
    base, family = str(DEMO_TRANSFORMER), StableDiffusion3()
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_BASE, subfolder="tokenizer")
    trained = Base(tokenizer).eval()
    trained.start_from(DEMO_TRANSFORMER)
    noisy, sigmas = torch.randn(1, 16, 16, 16), torch.tensor([0.7])
    caption = "red circle with teal background"
    with torch.no_grad():
        encoder = family.load_text_encoder(base, torch.float32)
        text = family.encode_text(family.load_tokenizer(base), encoder, [caption])
        expected = family.predict(family.load_denoiser(base, torch.float32), None, noisy, sigmas, text, None)
        torch.testing.assert_close(trained(noisy, sigmas, tokenize(tokenizer, [caption])), expected)


def test_a_step_of_muon_turns_the_gradient_into_an_orthogonal_matrix_of_adams_size() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(24, 48))
    weight.grad = torch.randn(24, 48)
    Muon([weight]).step(0.1)
    scales = torch.linalg.svdvals(weight.detach())
    assert scales.min() / scales.max() > 0.6 and abs(weight.square().mean().sqrt() / (0.1 * 0.2) - 1) < 0.25
    assert (weight * weight.grad).sum() < 0


def test_the_autoencoder_starts_as_the_first_bases_in_the_first_of_16_channels() -> None:
    old = AutoencoderKL.from_pretrained(DEMO_BASE, subfolder="vae", torch_dtype=torch.float32)
    torch.manual_seed(0)
    vae, images = build_vae(), torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        found = vae.encode(images).latent_dist.mean
        assert found.shape[1] == CHANNELS
        torch.testing.assert_close(found[:, :4], old.encode(images).latent_dist.mean, rtol=1e-4, atol=1e-4)
