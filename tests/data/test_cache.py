"""Latents and text, computed once: right, resumable, and never stale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.data import cache as cache_module
from engine.data.cache import cache_key, cropped_image, open_or_build
from engine.data.samples import Sample
from engine.data.scan import scan_folder
from engine.families import detect
from engine.jobs.control import Cancelled, Control
from tests.training.conftest import paired_folder  # noqa: F401  (a fixture)

CPU = torch.device("cpu")


@pytest.fixture
def samples(paired_folder: Path) -> list[Sample]:  # noqa: F811
    return scan_folder(paired_folder).samples


def build(folder: Path, base: Path, samples: list[Sample], control: Control | None = None, progress=None):
    token = (control or Control()).token
    return open_or_build(
        folder, detect(str(base)), str(base), samples, 64, CPU, token, progress or (lambda *_: None), batch=5
    )


def test_it_holds_what_the_encoders_say(tmp_path: Path, tiny_base: Path, samples: list[Sample]) -> None:
    cache = build(tmp_path, tiny_base, samples)
    family = detect(str(tiny_base))
    vae = family.load_vae(str(tiny_base), torch.float32)
    picture = torch.from_numpy(np.array(cropped_image(samples[7], 64))).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        mean, logvar = family.encode_images(vae, picture)
        encoder = family.load_text_encoder(str(tiny_base), torch.float32)
        hidden = family.encode_text(family.load_tokenizer(str(tiny_base)), encoder, [samples[7].caption])["hidden"]
    assert cache.latent_shape == (4, 8, 8)
    got_mean, got_logvar = cache.latents([3, 7])
    assert torch.allclose(got_mean[1], mean[0], rtol=2e-3, atol=2e-3)
    assert torch.allclose(got_logvar[1], logvar[0], rtol=2e-3, atol=2e-2)
    assert torch.allclose(cache.text([samples[7].caption])["hidden"], hidden, rtol=2e-3, atol=2e-3)
    assert not torch.equal(cache.text([""])["hidden"], hidden)


def test_it_is_made_once(
    tmp_path: Path, tiny_base: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, tiny_base, samples)
    monkeypatch.setattr(cache_module, "_encode_latents", lambda *_: pytest.fail("made twice"))
    build(tmp_path, tiny_base, samples)


def test_a_cancelled_build_keeps_its_shards(
    tmp_path: Path, tiny_base: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SHARD", 4)
    control, seen = Control(), []

    def progress(done: int, total: int, label: str) -> None:
        seen.append(done)
        if done >= 8:
            control.cancel()

    with pytest.raises(Cancelled):
        build(tmp_path, tiny_base, samples, control, progress)
    assert not list(tmp_path.rglob("cache.json"))
    again: list[int] = []
    cache = build(tmp_path, tiny_base, samples, progress=lambda done, total, label: again.append(done))
    assert cache.count == 12
    assert min(done for done in again if done > 1) > 8 or again[0] > 8, "finished shards were made again"


@pytest.mark.parametrize("change", ["caption", "digest", "key"])
def test_the_key_follows_everything_that_matters(tiny_base: Path, samples: list[Sample], change: str) -> None:
    from dataclasses import replace

    other = [replace(samples[0], **{change: "something else"}), *samples[1:]]
    assert cache_key(str(tiny_base), samples, 64) != cache_key(str(tiny_base), other, 64)
    assert cache_key(str(tiny_base), samples, 64) != cache_key(str(tiny_base), samples, 128)
    assert cache_key(str(tiny_base), samples, 64) == cache_key(str(tiny_base), list(samples), 64)
