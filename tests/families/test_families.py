"""A base is recognized from its configs; what does not fit is refused in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import UserError
from engine.families.registry import by_name, detect
from engine.families.unet_sizes import control_channels


def test_the_tiny_base_is_sd1(tiny_base: Path) -> None:
    family = detect(str(tiny_base))
    assert family.name == "sd1"
    assert by_name("sd1") is family
    assert family.default_resolution(str(tiny_base)) == 64


def changed(base: Path, folder: Path, file: str, **values: object) -> str:
    shutil.copytree(base, folder)
    path = folder / file
    config = json.loads(path.read_text(encoding="utf-8"))
    config.update(values)
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(("base", "name"), [("tiny_sd2", "sd2"), ("tiny_sd2_base", "sd2"), ("tiny_sdxl", "sdxl")])
def test_each_family_is_recognized(request: pytest.FixtureRequest, base: str, name: str) -> None:
    assert detect(str(request.getfixturevalue(base))).name == name


def test_what_cannot_be_trained_for_is_refused_with_what_can(any_base: Path, tmp_path: Path) -> None:
    config = f"{detect(str(any_base)).facts.denoiser}/config.json"
    inpainting = changed(any_base, tmp_path / "inpaint", config, in_channels=9)
    with pytest.raises(UserError, match="Stable Diffusion 1.x, Stable Diffusion 2.x, Stable Diffusion XL"):
        detect(inpainting)


CLIP, BOTH = {"text_encoder": ["transformers", "CLIPTextModel"]}, "text_encoder_2"
ONE_ENCODER: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"], **CLIP}
TWO_ENCODERS: dict[str, Any] = ONE_ENCODER | {BOTH: ["transformers", "CLIPTextModelWithProjection"]}
OF_SD2: dict[str, Any] = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "use_linear_projection": True}
OF_SDXL: dict[str, Any] = OF_SD2 | {"addition_embed_type": "text_time"}
BETAS: dict[str, Any] = {"_class_name": "DDPMScheduler", "beta_start": 0.00085, "prediction_type": "epsilon"}
EDM: dict[str, Any] = {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5, "prediction_type": "epsilon"}
FLOW: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
NO_SCALE: dict[str, Any] = {}


def base_of(
    folder: Path, index: dict[str, Any], unet: dict[str, Any], scheduler: dict[str, Any], vae: dict[str, Any]
) -> str:
    """A folder in diffusers layout with configs, and files in place of weights."""
    files = {"model_index.json": index, "unet/config.json": unet, "vae/config.json": vae}
    for name, values in (files | {"scheduler/scheduler_config.json": scheduler}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # without tensors
    for part in ("tokenizer", "tokenizer_2"):
        (folder / part).mkdir(exist_ok=True)
    return str(folder)


@pytest.mark.parametrize(
    ("index", "unet", "scheduler", "vae", "words"),
    [
        (TWO_ENCODERS, OF_SDXL, EDM, NO_SCALE, "EDM's noise schedule"),
        (TWO_ENCODERS, OF_SDXL, BETAS, {"latents_mean": [0.0] * 4}, "latents_mean"),
        (TWO_ENCODERS, OF_SDXL, FLOW, NO_SCALE, "flow matching"),
        (TWO_ENCODERS, OF_SDXL, BETAS | {"use_flow_sigmas": True}, NO_SCALE, "flow matching"),
        (TWO_ENCODERS | {"text_encoder": [None, None]}, OF_SDXL, BETAS, NO_SCALE, "refiner"),
        (TWO_ENCODERS, OF_SDXL | {"time_cond_proj_dim": 256}, BETAS, NO_SCALE, "LCM"),
        (ONE_ENCODER, OF_SD2 | {"class_embed_type": "projection"}, BETAS, NO_SCALE, "unCLIP"),
        (ONE_ENCODER, OF_SDXL | {"encoder_hid_dim": 4096}, BETAS, NO_SCALE, "Kolors"),
        (ONE_ENCODER | {"text_encoder": ["x", "T5EncoderModel"]}, OF_SD2, BETAS, NO_SCALE, "T5EncoderModel"),
        (ONE_ENCODER, OF_SD2, BETAS | {"prediction_type": "sample"}, NO_SCALE, "'sample'"),
        (ONE_ENCODER, OF_SD2 | {"in_channels": 9}, BETAS, NO_SCALE, "inpainting"),
        (ONE_ENCODER, OF_SD2, BETAS, {"_class_name": "VQModel"}, "VQModel"),
    ],
)
def test_a_base_that_would_train_as_something_else_is_refused_in_words(
    tmp_path: Path,
    index: dict[str, Any],
    unet: dict[str, Any],
    scheduler: dict[str, Any],
    vae: dict[str, Any],
    words: str,
) -> None:
    """From its configs, so at the choice: before anything is cached or loaded."""
    with pytest.raises(UserError, match=words) as refused:
        detect(base_of(tmp_path, index, unet, scheduler, vae))
    assert "This version can train for: Stable Diffusion 1.x" in refused.value.why
    plain = {BOTH: TWO_ENCODERS[BOTH]} if BOTH in index else {}
    added = {"addition_embed_type": "text_time"} if BOTH in index else {}
    assert detect(base_of(tmp_path, ONE_ENCODER | plain, OF_SD2 | added, BETAS, NO_SCALE)).name in ("sd2", "sdxl")


def test_what_the_base_predicts_comes_from_its_own_config(tiny_sd2: Path, tiny_sd2_base: Path) -> None:
    family = by_name("sd2")
    velocity, noise = (family.load_scheduler(str(base)) for base in (tiny_sd2, tiny_sd2_base))
    assert velocity.config.prediction_type == "v_prediction" and noise.config.prediction_type == "epsilon"
    assert velocity.alphas_cumprod[-1].item() == pytest.approx(0, abs=1e-6)
    assert noise.alphas_cumprod[-1].item() > 1e-3


def test_the_second_text_encoder_gives_the_pooled_vector(tiny_sdxl: Path) -> None:
    """As diffusers' own pipeline encodes."""
    from diffusers import StableDiffusionXLPipeline

    family = by_name("sdxl")
    words, encoder = family.load_tokenizer(str(tiny_sdxl)), family.load_text_encoder(str(tiny_sdxl), torch.float32)
    got = family.encode_text(words, encoder, ["red circle", ""])
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl)
    hidden, _, pooled, _ = pipeline.encode_prompt(["red circle", ""], do_classifier_free_guidance=False)
    assert torch.equal(got["hidden"], hidden) and torch.equal(got["pooled"], pooled)
    assert got["hidden"].shape == (2, 32, 112) and got["pooled"].shape == (2, 40)


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model_index.json"):
        detect(str(tmp_path))


def test_a_missing_part_is_named(tiny_base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_base, broken)
    shutil.rmtree(broken / "vae")
    with pytest.raises(UserError, match="no folder vae"):
        detect(str(broken))
    with pytest.raises(UserError, match="vae cannot be read"):
        by_name("sd1").load_vae(str(broken))


def test_a_hub_that_cannot_be_reached_says_where_to_put_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UserError, match="models folder"):
        detect("somebody/some-model")


def test_a_new_controlnet_adds_nothing_at_first(any_base: Path) -> None:
    base = str(any_base)
    family = detect(base)
    unet = family.load_denoiser(base, torch.float32)
    controlnet = family.new_controlnet(unet)
    assert all(p.dtype == torch.float32 for p in controlnet.parameters())
    noisy, timesteps = torch.randn(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        encoder = family.load_text_encoder(base, torch.float32)
        text = family.encode_text(family.load_tokenizer(base), encoder, ["red circle"])
        text |= family.size_conditions(torch.tensor([[64.0, 96.0, 0.0, 16.0, 64.0, 64.0]]))
        under_control = family.predict(unet, controlnet, noisy, timesteps, text, torch.rand(1, 3, 64, 64))
        alone = unet(noisy, timesteps, text["hidden"], **family.added_conditions(text)).sample
    assert torch.allclose(under_control, alone, atol=1e-6)


@pytest.mark.parametrize(("trunk", "expected"), [(320, (16, 32, 96, 256)), (48, (8, 16, 32, 48))])
def test_the_control_encoder_is_the_original_one_or_a_smaller_one(trunk: int, expected: tuple[int, ...]) -> None:
    assert control_channels(trunk) == expected


@pytest.mark.answers('Black images, "invalid value in cast"')
def test_nothing_blackens_images(any_base: Path) -> None:
    """No safety filter, and a VAE in fp32 whatever the rest is in: in half precision SDXL's overflows."""
    base, family = str(any_base), detect(str(any_base))
    controlnet = family.new_controlnet(family.load_denoiser(base, torch.bfloat16))
    pipeline = family.pipeline(base, controlnet, torch.bfloat16)
    assert family.load_vae(base).dtype == pipeline.vae.dtype == torch.float32
    assert getattr(pipeline, "safety_checker", None) is None
    assert getattr(family.image_pipeline(pipeline), "safety_checker", None) is None


@pytest.mark.parametrize("base", ["tiny_base", pytest.param("tiny_sdxl", marks=pytest.mark.long)])
def test_a_base_of_the_hub_is_taken_by_its_id(
    base: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's own cache holds it after a download, with no connection."""
    folder = request.getfixturevalue(base)
    name, cache = "somebody/some-model", tmp_path / "hub"
    place, revision = cache / "models--somebody--some-model", "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision, encoding="utf-8")
    shutil.copytree(folder, place / "snapshots" / revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    family = detect(name)
    assert family is detect(str(folder))
    for load, given in {"load_denoiser": [torch.float32], "load_vae": [], "load_text_encoder": [torch.float32]}.items():
        ours, theirs = (getattr(family, load)(which, *given) for which in (name, str(folder)))
        ours, theirs = (parts if isinstance(parts, list | tuple) else [parts] for parts in (ours, theirs))
        for one, two in zip(ours, theirs, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert family.count_chunks(family.load_tokenizer(name), ["a red circle"]) == 1
    assert family.load_scheduler(name).config == family.load_scheduler(str(folder)).config


def test_the_facts_name_the_classes_that_the_family_uses(any_base: Path) -> None:
    family = detect(str(any_base))
    assert family.pipeline_class.__name__ == family.facts.pipeline
    denoiser = family.load_denoiser(str(any_base), torch.float32)
    assert type(denoiser).__name__ == family.facts.denoiser_class
    assert type(family.new_controlnet(denoiser)).__name__ == family.facts.net_class
