"""The cache of latents and text embeddings is correct, resumable and never stale."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import cache as cache_module
from engine.data import text_cache
from engine.data.cache import cache_key, cropped_image, entries, open_or_build
from engine.data.crop import shared_crop
from engine.data.crop_plan import CropPlan
from engine.data.samples import Sample
from engine.data.scan import scan_folder
from engine.disk.space import DiskFull
from engine.errors import UserError
from engine.families.registry import detect
from engine.families.stable_diffusion import StableDiffusion
from engine.jobs.control import Cancelled, Control

CPU = torch.device("cpu")
SQUARE = CropPlan(64)


@pytest.fixture
def samples(paired_folder: Path) -> list[Sample]:
    return scan_folder(paired_folder).samples


def build(
    folder: Path,
    base: Path,
    samples: list[Sample],
    control: Control | None = None,
    progress=None,
    plan: CropPlan = SQUARE,
    **more: Any,
):
    token = (control or Control()).token
    return open_or_build(
        folder,
        detect(str(base)),
        str(base),
        samples,
        plan,
        CPU,
        token,
        progress or (lambda *_: None),
        batch=5,
        **more,
    )


def test_the_cache_equals_the_encoders_output(tmp_path: Path, tiny_base: Path, samples: list[Sample]) -> None:
    cache = build(tmp_path, tiny_base, samples)
    family = detect(str(tiny_base))
    vae = family.load_vae(str(tiny_base))
    image = (
        torch.from_numpy(np.array(cropped_image(samples[7], shared_crop(64, 64, 64)))).permute(2, 0, 1)[None].float()
        / 127.5
        - 1
    )
    with torch.no_grad():
        mean, logvar = family.encode_images(vae, image)
        encoder = family.load_text_encoder(str(tiny_base), torch.float32)
        hidden = family.encode_text(family.load_tokenizer(str(tiny_base)), encoder, [samples[7].caption])["hidden"]
    assert cache.latent_shape(7) == (4, 8, 8)
    got_mean, got_logvar = cache.latents([3, 7])
    assert torch.allclose(got_mean[1], mean[0], rtol=2e-3, atol=2e-3)
    assert torch.allclose(got_logvar[1], logvar[0], rtol=2e-3, atol=2e-2)
    assert torch.allclose(cache.text([samples[7].caption])["hidden"], hidden, rtol=2e-3, atol=2e-3)
    assert not torch.equal(cache.text([""])["hidden"], hidden)


def test_the_cache_is_built_once(
    tmp_path: Path, tiny_base: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, tiny_base, samples)
    monkeypatch.setattr(cache_module, "encode_latents", lambda *_: pytest.fail("made twice"))
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


@pytest.mark.parametrize("change", ["digest", "key"])
def test_the_key_depends_on_everything_that_matters(tiny_base: Path, samples: list[Sample], change: str) -> None:
    other = [replace(samples[0], **{change: "something else"}), *samples[1:]]
    key = cache_key(str(tiny_base), samples, CropPlan(64))
    assert key != cache_key(str(tiny_base), other, CropPlan(64))
    finer = CropPlan(64, buckets=True, step=16)
    for plan in (CropPlan(128), CropPlan(64, "smart"), CropPlan(64, "random", 4), CropPlan(64, buckets=True), finer):
        assert key != cache_key(str(tiny_base), samples, plan)
    assert key == cache_key(str(tiny_base), list(samples), CropPlan(64))


def test_edited_captions_do_not_rebuild_latents(
    tmp_path: Path, tiny_base: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build(tmp_path, tiny_base, samples)
    text = before.text([samples[0].caption])["hidden"]
    monkeypatch.setattr(cache_module, "encode_latents", lambda *_: pytest.fail("made twice"))
    edited = [replace(samples[0], caption="a new caption"), *samples[1:]]
    after = build(tmp_path, tiny_base, edited)
    assert torch.equal(before.latents([0, 1])[0], after.latents([0, 1])[0])
    assert not torch.equal(after.text(["a new caption"])["hidden"], text)
    assert torch.equal(after.text([samples[1].caption])["hidden"], before.text([samples[1].caption])["hidden"])


def test_buckets_and_variants_have_shards_of_their_own_size(
    tmp_path: Path, tiny_base: Path, photos: dict[str, np.ndarray]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in photos.items():
        Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2)).save(folder / f"{name}.png")
    samples, plan = scan_folder(folder).samples, CropPlan(192, "random", 3, True, seed=5)
    cache = build(tmp_path / "cache", tiny_base, samples, plan=plan)
    assert (
        {path.name for path in tmp_path.rglob("latents-*")}
        == {f"latents-{w}x{h}-00000.safetensors" for w, h in {plan.size(sample) for sample in samples}}
        == {"latents-192x192-00000.safetensors", "latents-256x128-00000.safetensors"}
    )
    stored = [entry for some in entries(samples, plan).values() for entry in some]
    assert cache.count == len(stored) and {row for row, _ in stored} == {0, 1, 2, 3}
    vae = detect(str(tiny_base)).load_vae(str(tiny_base))
    for row, variant in stored:
        crop = plan.crop(samples[row], variant)
        assert cache.crop(row, variant) == crop and cache.size(row) == crop.size
        width, height = crop.size
        assert cache.latent_shape(row) == (4, height // 8, width // 8)
    row = next(row for row, variant in stored if variant == 2)
    image = np.array(cropped_image(samples[row], cache.crop(row, 2)))
    with torch.no_grad():
        wanted = vae.encode(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1).latent_dist.mean
    assert torch.allclose(cache.latents([row], [2])[0], wanted, rtol=2e-3, atol=2e-3)
    assert not torch.allclose(cache.latents([row], [0])[0], wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_rebuilt(tmp_path: Path, tiny_base: Path, samples: list[Sample], harm: str) -> None:
    before = build(tmp_path, tiny_base, samples).latents([0, 11])
    for kind in ("latents-*", "text-*"):
        path = next(tmp_path.rglob(f"{kind}.safetensors"))
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content if harm == "flipped" else content[:-9])
        if harm == "gone":
            path.unlink()
    labels: list[str] = []
    after = build(tmp_path, tiny_base, samples, progress=lambda done, total, label: labels.append(label))
    assert all(torch.equal(one, two) for one, two in zip(before, after.latents([0, 11]), strict=True))
    assert {"Encoding images", "Encoding captions"} <= set(labels)
    labels.clear()
    build(tmp_path, tiny_base, samples, progress=lambda done, total, label: labels.append(label))
    assert set(labels) == {"Checking the cache"}, "now it is whole"


def test_a_full_disk_is_noticed_before_encoding(
    tmp_path: Path, tiny_base: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.disk.space.free_bytes", lambda folder: 1000)
    monkeypatch.setattr(cache_module, "encode_latents", lambda *_: pytest.fail("began"))
    with pytest.raises(DiskFull, match="The cache .* was not written"):
        build(tmp_path, tiny_base, samples)


def tight(real: Any, seen: list[int], most: int, after: int) -> Any:
    """Wraps a family's encoding method: after ``after`` calls, more than ``most`` at once run out of memory."""

    def encode(family: StableDiffusion, first: Any, *rest: Any, **more: Any) -> Any:
        (count,) = (len(one) for one in rest if isinstance(one, list | torch.Tensor))  # captions or images
        seen.append(count)
        if len(seen) > after and count > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(family, first, *rest, **more)

    return encode


@pytest.mark.parametrize("method", ["encode_images", "encode_long"])
def test_after_out_of_memory_encoding_continues_with_smaller_batches(
    tmp_path: Path, tiny_base: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    samples = [replace(sample, caption=f"{sample.caption} {number}") for number, sample in enumerate(samples)]
    calm = build(tmp_path / "calm", tiny_base, samples)
    monkeypatch.setattr(text_cache, "CAPTIONS_AT_ONCE", 5)
    seen: list[int] = []
    messages: list[str] = []
    done: dict[str, int] = {}
    monkeypatch.setattr(StableDiffusion, method, tight(getattr(StableDiffusion, method), seen, 2, 1))
    cache = build(
        tmp_path / "short",
        tiny_base,
        samples,
        progress=lambda now, _, label: done.update({label: now}),
        on_message=messages.append,
    )
    left = [2, 2, 2, 1] if method == "encode_images" else [2, 2, 2, 2]  # including the empty prompt
    assert seen == [5, 5, *left], "the first batch is not encoded again"
    (words,) = messages
    assert words.startswith("Memory ran out with 5 ") and words.endswith(" at a time; continuing with 2.")
    rows = range(len(samples))
    for one, two in zip(cache.latents(rows), calm.latents(rows), strict=True):
        assert torch.allclose(one, two, rtol=2e-3, atol=2e-2)
    captions = [sample.caption for sample in samples]
    assert torch.allclose(cache.text(captions)["hidden"], calm.text(captions)["hidden"], rtol=2e-3, atol=2e-3)
    assert done == {"Encoding images": 12, "Encoding captions": 13}


@pytest.mark.parametrize(
    ("method", "words"), [("encode_images", "one of the images"), ("encode_long", "one of the captions")]
)
def test_a_single_image_out_of_memory_is_an_error_and_finished_shards_are_kept(
    tmp_path: Path, tiny_base: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, method: str, words: str
) -> None:
    monkeypatch.setattr(cache_module, "SHARD", 4)
    messages: list[str] = []
    real = getattr(StableDiffusion, method)
    with monkeypatch.context() as patched:
        patched.setattr(StableDiffusion, method, tight(real, [], 0, 1 if method == "encode_images" else 0))
        with pytest.raises(UserError, match=words):
            build(tmp_path, tiny_base, samples, on_message=messages.append)
    assert messages and messages[-1].endswith("continuing with 1.")
    kept = {path.name for path in tmp_path.rglob("latents-*.safetensors")}
    assert kept == {f"latents-64x64-{n:05d}.safetensors" for n in range(1 if method == "encode_images" else 3)}
    again: list[int] = []
    monkeypatch.setattr(StableDiffusion, "encode_images", tight(StableDiffusion.encode_images, again, 99, 0))
    assert build(tmp_path, tiny_base, samples).count == 12
    assert sum(again) == 12 - 4 * len(kept), "finished shards are not made again"


def test_an_encoder_that_ran_out_of_memory_is_loaded_again(
    tmp_path: Path, tiny_base: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, tries = type(detect(str(tiny_base))), []

    def load(*given: Any) -> Any:
        tries.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(family, "load_vae", load)
    with pytest.raises(UserError, match="The model that encodes the images does not fit"):
        build(tmp_path, tiny_base, samples)
    assert len(tries) == 2


def test_a_base_that_was_moved_keeps_its_cache(tmp_path: Path, tiny_base: Path, samples: list[Sample]) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_base, copy)
    assert cache_key(str(copy), samples, SQUARE) == cache_key(str(tiny_base), samples, SQUARE)
