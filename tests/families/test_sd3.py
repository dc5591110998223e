"""Stable Diffusion 3: text, control, prediction and sampling beside diffusers' own pipeline, on a tiny random base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Pipeline,
)
from diffusers.models.attention import JointTransformerBlock

from engine.errors import UserError
from engine.families.facts import SD1
from engine.families.files import LAYOUTS, lacks_optional_text
from engine.families.joint_sizes import count, kept_by_block
from engine.families.registry import describe, detect
from engine.families.sd3 import T5_TOKENS, StableDiffusion3
from engine.families.sizes import Learned
from engine.inference.sampling import draw_latents
from engine.inference.settings import SamplingOptions
from tests import tiny_bases
from tests.families.transformer_nets import Fused, encoded, maps, randomized

CAPTIONS = ["a red circle", "a blue square, on grey"]


@pytest.fixture(scope="module")
def family(tiny_sd3: Path) -> StableDiffusion3:
    found = detect(str(tiny_sd3))
    assert isinstance(found, StableDiffusion3)
    return found


@pytest.fixture(scope="module")
def theirs(tiny_sd3: Path) -> Any:
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_sd3)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def texts(family: StableDiffusion3, tiny_sd3: Path) -> dict[str, torch.Tensor]:
    return encoded(family, str(tiny_sd3), CAPTIONS)


@pytest.fixture(scope="module")
def loud_net(family: StableDiffusion3, tiny_sd3: Path) -> SD3ControlNetModel:
    """A ControlNet whose outputs are not zero."""
    net = family.new_controlnet(family.load_denoiser(str(tiny_sd3), torch.float32))
    return randomized(net, ("controlnet_blocks", "pos_embed_input"))


def test_it_is_described(tiny_sd3: Path) -> None:
    assert describe(str(tiny_sd3)) == "Stable Diffusion 3, predicts flow, made for 64 px"


@pytest.mark.parametrize("clip_skip", [1, 3])
def test_text_is_that_of_diffusers_pipeline(
    family: StableDiffusion3, tiny_sd3: Path, theirs: Any, clip_skip: int
) -> None:
    base = str(tiny_sd3)
    with torch.no_grad():
        ours = family.encode_text(
            family.load_tokenizer(base), family.load_text_encoder(base, torch.float32), CAPTIONS, clip_skip
        )
        hidden, _, pooled, _ = theirs.encode_prompt(
            CAPTIONS, None, None, do_classifier_free_guidance=False, clip_skip=clip_skip - 2 if clip_skip > 2 else None
        )
    assert ours["hidden"].shape == (2, 32 + T5_TOKENS, 128) and ours["pooled"].shape == (2, 64)
    assert torch.allclose(ours["hidden"], hidden, atol=1e-5) and torch.allclose(ours["pooled"], pooled, atol=1e-5)


def test_without_t5_one_token_of_zeros_stands_for_its_text_and_without_clip_it_is_refused(
    tmp_path: Path, tiny_sd3: Path, tiny_base: Path
) -> None:
    base = str(tiny_bases.build_sd3(tmp_path / "base", tmp_path, t5=False))
    family = detect(base)
    with torch.no_grad():
        encoder = family.load_text_encoder(base, torch.float32)
        text = family.encode_text(family.load_tokenizer(base), encoder, CAPTIONS)
    assert text["hidden"].shape == (2, 32 + 1, 128)
    assert not text["hidden"][:, 32:].any() and text["hidden"][:, :32].any()
    assert (
        lacks_optional_text(base) and not lacks_optional_text(str(tiny_sd3)) and not lacks_optional_text(str(tiny_base))
    )
    index = Path(base) / "model_index.json"
    left_out = json.loads(index.read_text(encoding="utf-8")) | {"text_encoder_2": [None, None]}
    index.write_text(json.dumps(left_out), encoding="utf-8")
    with pytest.raises(UserError, match="text encoders text_encoder_2 are missing; only text_encoder_3"):
        detect(base)
    left_out["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
    index.write_text(json.dumps(left_out), encoding="utf-8")
    shutil.rmtree(Path(base) / "text_encoder_2")
    with pytest.raises(UserError, match="text_encoder_2"):
        detect(base)


def test_leaving_out_t5_is_what_a_base_without_it_reads(
    family: StableDiffusion3, texts: dict[str, torch.Tensor]
) -> None:
    changed = family.without_optional_text(texts, torch.tensor([True, False]))
    assert not changed["hidden"][0, 32:].any() and torch.equal(changed["hidden"][0, :32], texts["hidden"][0, :32])
    assert torch.equal(changed["hidden"][1], texts["hidden"][1]) and texts["hidden"][0, 32:].any()


def test_a_new_net_adds_nothing_and_leaves_the_base_as_it_is(
    family: StableDiffusion3, tiny_sd3: Path, texts: dict[str, torch.Tensor]
) -> None:
    base = str(tiny_sd3)
    denoiser = family.load_denoiser(base, torch.float32)
    before = dict(denoiser.config)
    net = family.new_controlnet(denoiser)
    assert dict(denoiser.config) == before
    assert net.config.num_layers == 2 and net.config.force_zeros_for_pooled_projection
    control = family.encode_control(maps(), family.load_vae(base))
    noisy, sigmas = torch.randn(2, 16, 8, 8), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        assert torch.equal(
            family.predict(denoiser, net, noisy, sigmas, texts, control),
            family.predict(denoiser, None, noisy, sigmas, texts, None),
        )
    copied = denoiser.state_dict()
    assert all(torch.equal(weight, copied[name]) for name, weight in net.state_dict().items() if name in copied)


def test_the_control_is_the_mean_latent_without_the_shift(family: StableDiffusion3, tiny_sd3: Path) -> None:
    vae: Any = family.load_vae(str(tiny_sd3))
    images = maps().permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        mean = vae.encode(images).latent_dist.mean
        assert torch.equal(family.encode_control(maps(), vae), mean * vae.config.scaling_factor)
        assert torch.allclose(family.encode_mean(vae, images), (mean - 0.0609) * vae.config.scaling_factor)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_sampling_gives_what_diffusers_pipeline_gives(
    family: StableDiffusion3,
    tiny_sd3: Path,
    theirs: Any,
    texts: dict[str, torch.Tensor],
    loud_net: SD3ControlNetModel,
    guidance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trainer predicts as our sampling does, so this also shows that training and diffusers agree on the inputs."""
    base = str(tiny_sd3)
    vae: Any = family.load_vae(base)
    pipeline = family.pipeline(base, loud_net, torch.float32)
    negative = {name: rows[1:] for name, rows in texts.items()}
    text = {name: rows[:1] for name, rows in texts.items()}
    options = SamplingOptions(steps=4, guidance=guidance, sampler="euler", strength=0.8)
    ours = draw_latents(
        family, pipeline, text=text, negative=negative, control=maps()[:1], seeds=[5], options=options, control_vae=vae
    )
    reference = StableDiffusion3ControlNetPipeline(**theirs.components, controlnet=loud_net)
    reference.set_progress_bar_config(disable=True)
    # The pipeline draws from the posterior, where training and ComfyUI take its mean.
    kind = type(vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist)
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mean)
    noise = torch.randn((16, 8, 8), generator=torch.Generator().manual_seed(5))
    expected = reference(
        prompt_embeds=text["hidden"],
        pooled_prompt_embeds=text["pooled"],
        negative_prompt_embeds=negative["hidden"],
        negative_pooled_prompt_embeds=negative["pooled"],
        control_image=maps()[:1].permute(0, 3, 1, 2).float() / 127.5 - 1,
        latents=noise[None],
        num_inference_steps=4,
        guidance_scale=guidance,
        controlnet_conditioning_scale=0.8,
        width=64,
        height=64,
        output_type="latent",
    ).images
    assert torch.allclose(ours, expected, atol=2e-4), float((ours - expected).abs().max())


def test_the_real_base_and_its_net_are_counted_to_the_parameter(family: StableDiffusion3) -> None:
    config = json.loads((LAYOUTS / "sd3" / "transformer" / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        denoiser = SD3Transformer2DModel.from_config(config)
        net = family.new_controlnet(denoiser)
    sizes = count(config, 1024)
    assert sizes.denoiser.weights == sum(p.numel() for p in denoiser.parameters()) == family.facts.parameters
    assert sizes.controlnet.weights == sum(p.numel() for p in net.parameters())
    assert sizes.controlnet.tables == sizes.denoiser.tables == net.pos_embed.pos_embed.numel() == 226_492_416
    assert net.config.num_layers == family.facts.usual_blocks == 6


@pytest.mark.parametrize("blocks", [3, 12])
def test_another_number_of_blocks_is_counted_too(family: StableDiffusion3, blocks: int) -> None:
    config = json.loads((LAYOUTS / "sd3" / "transformer" / "config.json").read_text(encoding="utf-8"))
    assert family.facts.why_not_blocks(config, blocks) == ""
    with torch.device("meta"):
        net = family.new_controlnet(SD3Transformer2DModel.from_config(config), blocks)
    assert net.config.num_layers == family.facts.blocks_of(net.config) == blocks
    counted = count(config, 1024, learned=Learned(blocks=blocks))
    assert counted.controlnet.weights == sum(p.numel() for p in net.parameters())
    assert counted.residuals == blocks * 4096 * 1536


def test_numbers_of_blocks_that_do_not_work_are_refused_in_words(family: StableDiffusion3) -> None:
    refused = family.facts.why_not_blocks
    assert "not of 5" in refused({"num_layers": 24}, 5)
    assert "cannot be spread evenly over the base's 4; set 1, 2, or 0" in refused({"num_layers": 4}, 3)
    assert "cannot be spread" in refused({"num_layers": 12}, 12), "its last block cannot be copied"
    assert "copies the whole encoder" in SD1.why_not_blocks({}, 6)
    assert [refused({"num_layers": 24}, n) for n in (0, 3, 4, 6, 8, 12)] == [""] * 6 and SD1.why_not_blocks({}, 0) == ""


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_what_a_block_keeps_is_counted(
    trained: bool, second: bool, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 with attention that keeps no matrix; the sizes are proportional to the tokens and to the width."""
    width, image, text = 64, 256, 80
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda q, k, v, **_: Fused.apply(q, k, v))
    with torch.device("meta"):
        block = JointTransformerBlock(width, 4, 16, last, "rms_norm", second).to(torch.bfloat16).requires_grad_(trained)
        tokens = [torch.empty(1, count, width, dtype=torch.bfloat16, requires_grad=True) for count in (image, text)]
        modulation = torch.empty(1, width, dtype=torch.bfloat16, requires_grad=trained)
    own = {parameter.untyped_storage()._cdata for parameter in block.parameters()}
    kept: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block(hidden_states=tokens[0], encoder_hidden_states=tokens[1], temb=modulation)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 2
    assert found == pytest.approx(kept_by_block(width, image, text, trained, second, last), rel=0.05)
