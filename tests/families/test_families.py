"""A base is recognised from its configs; what does not fit is refused in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from engine.errors import UserError
from engine.families import by_name, detect
from engine.families.sd1 import hint_channels


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


def test_another_family_is_refused_with_its_name(tiny_base: Path, tmp_path: Path) -> None:
    sd2 = changed(tiny_base, tmp_path / "sd2", "unet/config.json", use_linear_projection=True)
    with pytest.raises(UserError, match="Stable Diffusion 1.x"):
        detect(sd2)
    inpainting = changed(tiny_base, tmp_path / "inpaint", "unet/config.json", in_channels=9)
    with pytest.raises(UserError):
        detect(inpainting)


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model_index.json"):
        detect(str(tmp_path))


def test_a_missing_part_is_named(tiny_base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_base, broken)
    shutil.rmtree(broken / "vae")
    with pytest.raises(UserError, match="vae cannot be read"):
        detect(str(broken)).load_vae(str(broken), torch.float32)


def test_a_hub_that_cannot_be_reached_says_where_to_put_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UserError, match="models folder"):
        detect("somebody/some-model")


def test_a_new_controlnet_adds_nothing_at_first(tiny_base: Path) -> None:
    family = detect(str(tiny_base))
    unet = family.load_unet(str(tiny_base), torch.float32)
    controlnet = family.new_controlnet(unet)
    assert all(p.dtype == torch.float32 for p in controlnet.parameters())
    noisy, text = torch.randn(1, 4, 8, 8), {"hidden": torch.randn(1, 32, 64)}
    timesteps = torch.tensor([500])
    with torch.no_grad():
        under_control = family.predict(unet, controlnet, noisy, timesteps, text, torch.rand(1, 3, 64, 64))
        alone = unet(noisy, timesteps, text["hidden"]).sample
    assert torch.allclose(under_control, alone, atol=1e-6)


@pytest.mark.parametrize(("trunk", "expected"), [(320, (16, 32, 96, 256)), (48, (8, 16, 32, 48))])
def test_the_hint_encoder_is_the_original_one_or_a_smaller_one(trunk: int, expected: tuple[int, ...]) -> None:
    assert hint_channels(trunk) == expected
