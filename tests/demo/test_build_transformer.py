"""The script that trained the second bundled base: what it computes is what the base computes in any program."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import JointAttnProcessor2_0
from transformers import CLIPTokenizer

from engine.demo.build_base import tokenize
from engine.demo.build_transformer_parts import ABSENT_TOKENS, CHANNELS, TEXT_WIDTH, Base, Muon, build_vae
from engine.families.sd3 import StableDiffusion3
from engine.workspace.paths import DEMO_BASE


def test_in_training_one_token_stands_for_all_that_t5_leaves_out() -> None:
    """The script that trained it computes them once; the pipeline computes all of them."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_BASE, subfolder="tokenizer")
    trained = Base(tokenizer).eval()
    for name, weight in trained.transformer.named_parameters():  # diffusers starts modulations at zero
        if "norm" in name and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.05)
    noisy, sigmas = torch.randn(1, 16, 16, 16), torch.tensor([0.7])
    ids = tokenize(tokenizer, ["red circle with teal background"])
    with torch.no_grad():
        read = [encoder(ids, output_hidden_states=True) for encoder in (trained.first, trained.second)]
        hidden = torch.cat([one.hidden_states[-2] for one in read], dim=-1)
        hidden = torch.nn.functional.pad(hidden, (0, TEXT_WIDTH - hidden.shape[-1], 0, ABSENT_TOKENS))
        text = {"hidden": hidden, "pooled": torch.cat([one.text_embeds for one in read], dim=-1)}
        counted = trained(noisy, sigmas, ids)
        trained.transformer.set_attn_processor(JointAttnProcessor2_0())
        torch.testing.assert_close(counted, StableDiffusion3().denoise(trained.transformer, noisy, sigmas, text, None))


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
