"""Guidance rescale, compared with diffusers' own function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from engine.families.guidance import rescale
from engine.families.registry import detect
from engine.inference.sampling import draw_latents
from engine.inference.settings import SamplingOptions

PHI, SCALE = 0.7, 6.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_formula_is_that_of_diffusers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    guided, with_prompt = (torch.randn((2, 4, 8, 8), generator=generator) * size for size in (5.0, 1.5))
    theirs = rescale_noise_cfg(guided, with_prompt, PHI)
    ours = rescale(guided.to(dtype), with_prompt.to(dtype), PHI)
    assert ours.dtype == dtype
    assert torch.allclose(ours.float(), theirs, rtol=1e-6 if dtype == torch.float32 else 2e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("base", "sampler", "scheduler"),
    [("tiny_sd2", "ddim", DDIMScheduler), ("tiny_sd3", "euler", FlowMatchEulerDiscreteScheduler)],
)
def test_the_sampler_gets_rescaled_predictions(
    base: str, sampler: str, scheduler: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What diffusers' sampler is given in each step is what diffusers' function makes of the denoiser's two halves."""
    folder: Path = request.getfixturevalue(base)
    family = detect(str(folder))
    denoiser = family.load_denoiser(str(folder), torch.float32)
    net = family.new_controlnet(denoiser)
    pipeline = family.pipeline(str(folder), net, torch.float32, denoiser=denoiser, vae=None, text_encoder=None)
    tokenizer, encoder = family.load_tokenizer(str(folder)), family.load_text_encoder(str(folder), torch.float32)
    text, negative = (family.encode_text(tokenizer, encoder, [words]) for words in ("red circle", ""))
    control_vae = family.control_vae(str(folder), torch.device("cpu"))
    halves, given, step = [], [], scheduler.step
    hook = denoiser.register_forward_hook(lambda _net, _given, output: halves.append(output[0]))
    monkeypatch.setattr(
        scheduler, "step", lambda self, predicted, *a, **n: (given.append(predicted), step(self, predicted, *a, **n))[1]
    )

    def draw(phi: float, guidance: float = SCALE) -> torch.Tensor:
        halves.clear(), given.clear()
        options = SamplingOptions(steps=2, sampler=sampler, guidance=guidance, guidance_rescale=phi)
        control = torch.zeros((1, 64, 64, 3), dtype=torch.uint8)
        return draw_latents(
            family, pipeline, text=text, negative=negative, control=control, seeds=[0], options=options,
            control_vae=control_vae,
        )  # fmt: skip

    plain = draw(0)
    rescaled = draw(PHI)
    assert not torch.equal(plain, rescaled) and len(given) == len(halves) == 2
    for predicted, both in zip(given, halves, strict=True):
        without, with_prompt = both.chunk(2)
        expected = rescale_noise_cfg(without + SCALE * (with_prompt - without), with_prompt, PHI)
        assert torch.allclose(predicted, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(draw(0), plain), "nothing of it stays in the pipeline"
    assert torch.equal(draw(PHI, guidance=1), draw(0, guidance=1)), "without guidance there is nothing to rescale"
    hook.remove()
