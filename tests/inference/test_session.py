"""Try it, on the tiny random base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.conditions import registry
from engine.config import RunConfig
from engine.data.crop import apply_crop, shared_crop
from engine.errors import UserError
from engine.families.registry import detect
from engine.inference.control_image import at_side, map_of
from engine.inference.request import TryRequest, prepare
from engine.inference.sampling import draw_latents, fit_control
from engine.inference.session import TrySession
from engine.inference.settings import SamplingOptions
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace


@pytest.fixture
def session(workspace: Workspace) -> TrySession:
    return TrySession(workspace, device="cpu")


@pytest.fixture
def request_(tiny_base: Path, loud_controlnet: Path, edges: Image.Image) -> TryRequest:
    return TryRequest(
        base=str(tiny_base),
        controlnet=loud_controlnet,
        prompt="red circle",
        control=edges,
        steps=2,
        width=64,
        height=64,
        seed=3,
    )


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def changed(request: TryRequest, **values: Any) -> TryRequest:
    from dataclasses import replace

    return replace(request, **values)


def test_the_same_seed_repeats_the_image_and_another_one_does_not(session: TrySession, request_: TryRequest) -> None:
    first, again, other = session.generate([request_, request_, changed(request_, seed=4)])
    assert first.size == (64, 64)
    assert np.array_equal(first, again)
    assert np.abs(pixels(first) - pixels(other)).mean() > 2


def test_an_image_does_not_depend_on_its_batch(session: TrySession, request_: TryRequest) -> None:
    alone = session.generate([request_])[0]
    third = session.generate([changed(request_, seed=9), changed(request_, prompt="a star"), request_])[2]
    assert np.abs(pixels(alone) - pixels(third)).max() <= 1


def test_without_control_the_control_image_does_not_matter(
    session: TrySession, request_: TryRequest, blank: Image.Image
) -> None:
    drawn, plain = session.generate([request_, changed(request_, without_control=True)])
    assert np.abs(pixels(drawn) - pixels(plain)).mean() > 1
    other_control = session.generate([changed(request_, control=blank, without_control=True)])[0]
    assert np.array_equal(plain, other_control)


def test_the_plain_image_is_the_one_of_the_base_alone(session: TrySession, request_: TryRequest) -> None:
    """Scale 0 is exactly the UNet without any ControlNet."""
    from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler

    plain = session.generate([changed(request_, without_control=True)])[0]
    pipeline = StableDiffusionPipeline.from_pretrained(request_.base, safety_checker=None)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(request_.seed))
    expected = pipeline(request_.prompt, latents=noise, num_inference_steps=2, width=64, height=64).images[0]
    assert np.abs(pixels(plain) - pixels(expected)).max() <= 1


def test_progress_counts_every_step_of_every_image(session: TrySession, request_: TryRequest) -> None:
    seen: list[tuple[int, int]] = []
    session.generate([request_, changed(request_, seed=1)], progress=lambda done, total, _: seen.append((done, total)))
    assert seen == [(2, 4), (4, 4)]


def test_cancel_ends_it_between_two_steps(session: TrySession, request_: TryRequest) -> None:
    control = Control()
    steps: list[int] = []

    def progress(done: int, _total: int, _label: str) -> None:
        steps.append(done)
        control.cancel()

    with pytest.raises(Cancelled):
        session.generate([changed(request_, steps=3)], control.token, progress)
    assert steps == [1]
    session.generate([request_])  # and the session goes on working


def test_models_are_loaded_once_and_only_what_is_replaced_is_loaded_again(
    session: TrySession, request_: TryRequest, loud_controlnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    for kind in (UNet2DConditionModel, ControlNetModel):
        load = kind.from_pretrained
        monkeypatch.setattr(
            kind,
            "from_pretrained",
            lambda *args, load=load, name=kind.__name__, **options: loaded.append(name) or load(*args, **options),
        )
    session.generate([request_])
    session.generate([request_])
    assert sorted(loaded) == ["ControlNetModel", "UNet2DConditionModel"]
    other = shutil.copytree(loud_controlnet, tmp_path / "other")
    session.generate([changed(request_, controlnet=other)])
    assert sorted(loaded) == ["ControlNetModel", "ControlNetModel", "UNet2DConditionModel"]
    session.free()
    assert not session.loaded
    session.generate([request_])
    assert loaded.count("UNet2DConditionModel") == 2


def test_sizes_are_rounded_and_control_images_resized_with_a_note(session: TrySession, request_: TryRequest) -> None:
    picture = session.generate([changed(request_, width=70, height=131)])[0]
    assert picture.size == (64, 128)
    assert any("70 x 131 to 64 x 128" in text for text in session.warnings)
    assert any("control image was cropped and resized" in text for text in session.warnings)
    assert prepare(changed(request_, width=72))[0].width == 72


def test_a_long_prompt_is_read_in_chunks_with_a_note(session: TrySession, request_: TryRequest) -> None:
    long = "red circle with blue background " * 20
    whole, cut = session.generate([changed(request_, prompt=long), changed(request_, prompt=long + "a green star")])
    assert any("read in 4 chunks" in text for text in session.warnings)
    assert np.abs(pixels(whole) - pixels(cut)).max() > 0  # what stands at its end counts, too
    session.generate([request_])
    assert session.warnings == ()


def test_numbers_out_of_range_are_named_at_once(request_: TryRequest) -> None:
    with pytest.raises(UserError) as caught:
        prepare(changed(request_, steps=0, strength=-1.0, width=10))
    assert all(word in str(caught.value).lower() for word in ("steps", "strength", "width"))


def test_a_net_for_another_base_is_refused_before_weights_are_read(
    session: TrySession, request_: TryRequest, loud_controlnet: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(loud_controlnet, tmp_path / "sd2")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 1024}), encoding="utf-8")
    (other / "diffusion_pytorch_model.safetensors").write_bytes(b"never read")
    with pytest.raises(UserError, match=r"does not fit.*1024 instead of 64"):
        session.generate([changed(request_, controlnet=other)])
    (other / "config.json").write_text(json.dumps(config | {"conditioning_channels": 1}), encoding="utf-8")
    with pytest.raises(UserError, match="1 channels"):
        session.generate([changed(request_, controlnet=other)])


def test_missing_and_broken_files_are_named(
    session: TrySession, request_: TryRequest, loud_controlnet: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="was not found"):
        session.generate([changed(request_, controlnet=tmp_path / "gone")])
    with pytest.raises(UserError, match="base model nowhere/at/all was not found"):
        session.generate([changed(request_, base="nowhere/at/all")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a ControlNet"):
        session.generate([changed(request_, controlnet=tmp_path / "empty")])
    hollow = shutil.copytree(loud_controlnet, tmp_path / "hollow")
    (hollow / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="contains no weights"):
        session.generate([changed(request_, controlnet=hollow)])


def test_weights_that_are_not_numbers_are_refused(
    session: TrySession, request_: TryRequest, loud_controlnet: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(loud_controlnet, tmp_path / "broken")
    weights = load_file(broken / "diffusion_pytorch_model.safetensors")
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, broken / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="broken.*conv_in.bias"):
        session.generate([changed(request_, controlnet=broken)])


@pytest.mark.answers("Can I pause? Where does it resume from?")
def test_a_checkpoint_folder_stands_for_its_net(
    session: TrySession, request_: TryRequest, loud_controlnet: Path, tmp_path: Path
) -> None:
    shutil.copytree(loud_controlnet, tmp_path / "step-000010" / "controlnet")
    direct, through = (
        session.generate([changed(request_, controlnet=path)])[0]
        for path in (loud_controlnet, tmp_path / "step-000010")
    )
    assert np.array_equal(direct, through)


def test_a_control_image_is_cropped_like_a_training_map(photos: dict[str, np.ndarray]) -> None:
    photo = Image.fromarray(photos["coffee"])
    control = fit_control(photo, 64, 64)
    expected = apply_crop(photo, shared_crop(photo.width, photo.height, 64))
    assert control.shape == (64, 64, 3) and control.dtype == torch.uint8
    assert np.array_equal(control.numpy(), np.asarray(expected))


def test_labels_are_never_mixed() -> None:
    labels = np.kron(np.array([[0, 255], [128, 0]], np.uint8), np.ones((33, 33), np.uint8))
    control = fit_control(np.stack([labels] * 3, axis=2), 64, 64, nearest=True)
    assert set(control.unique().tolist()) == {0, 128, 255}


def test_a_master_in_fp32_draws_with_a_unet_in_half_precision(tiny_base: Path, loud_controlnet: Path) -> None:
    """A net in another precision computes under autocast; its own weights stay as they are."""
    family = detect(str(tiny_base))
    net = family.load_controlnet(loud_controlnet).train()
    unet = family.load_denoiser(str(tiny_base), torch.bfloat16)
    pipeline = family.pipeline(str(tiny_base), net, torch.bfloat16, denoiser=unet, vae=None, text_encoder=None)
    text = {"hidden": torch.randn((1, 32, 64), generator=torch.Generator().manual_seed(0))}
    control = torch.zeros((1, 64, 64, 3), dtype=torch.uint8)
    inputs = {"text": text, "negative": text, "control": control, "seeds": [0], "options": SamplingOptions(steps=2)}
    latents = draw_latents(family, pipeline, **inputs)
    assert latents.shape == (1, 4, 8, 8)
    assert net.dtype == torch.float32
    assert torch.equal(draw_latents(family, pipeline, **inputs), latents), "the net is left as it was"


def test_the_map_of_a_photo_is_made_at_the_size_of_the_trainings() -> None:
    photo = Image.new("RGB", (3000, 2000))
    assert at_side(photo, 512).size == (768, 512)
    assert at_side(photo, 0).size == at_side(photo, 4000).size == (3000, 2000)


@pytest.mark.parametrize("kind", ["canny", "scribble", "lineart", "anime_lineart", "lines"])
def test_lines_are_as_wide_of_a_photo_of_4000_px_as_of_one_of_512(kind: str, photos: dict[str, np.ndarray]) -> None:
    small = Image.fromarray(photos["astronaut"])
    condition = {"type": kind, "parameters": registry.resolve_parameters(kind, {}), "side": 512}
    run: Any = SimpleNamespace(config=RunConfig(), name="r", condition=condition)

    def width(image: Image.Image) -> float:
        """Width of the map's lines as a share of its side: twice their area by the length of their edges."""
        grey = np.asarray(map_of(run, image).convert("L")).astype(int)
        drawn = np.abs(grey - np.bincount(grey.ravel()).argmax()) > 64
        edges = sum(np.count_nonzero(np.diff(drawn, axis=axis)) for axis in (0, 1))
        assert drawn.sum() > 500
        return float(2 * drawn.sum() / edges / min(drawn.shape))

    assert width(small.resize((4000, 4000))) == pytest.approx(width(small), rel=0.15)
