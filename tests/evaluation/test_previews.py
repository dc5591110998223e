"""Previews of a run: files, scores, and no effect on the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.config import ValidationConfig
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.make_maps import make_all
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.evaluation import probes
from engine.evaluation.pairs import Models, read_pair
from engine.evaluation.previews import PreviewCache, PreviewRequest, make_previews
from engine.families.registry import detect
from engine.jobs.control import Cancelled, Control
from engine.runs.run import read_preview
from engine.workspace.paths import Workspace
from tests.exif_settings import settings_in
from tests.living import living_objects

SETTINGS = ValidationConfig(pictures=3, sampling_steps=2)


@pytest.fixture(scope="module")
def dataset(photos: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four photographs with their light and dark maps."""
    folder = tmp_path_factory.mktemp("photos")
    for name, pixels in photos.items():
        image = Image.fromarray(pixels)
        image.thumbnail((160, 160))
        image.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a photo of {name}", encoding="utf-8")
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    dataset = Dataset.create(workspace, "photos", scan_folder(folder))
    make_all(dataset, "light_dark", workers=1)
    return dataset


@pytest.fixture(scope="module")
def models(tiny_base: Path, loud_controlnet: Path) -> Models:
    """The models that a trainer has in memory."""
    family = detect(str(tiny_base))
    return Models(
        family,
        str(tiny_base),
        family.load_denoiser(str(tiny_base), torch.float32),
        family.load_controlnet(loud_controlnet).train(),
    )


def preview(models: Models, dataset: Dataset, folder: Path, **changes: Any) -> Any:
    runtime = {name: changes.pop(name) for name in ("cache", "token", "progress", "watch") if name in changes}
    given = {"settings": SETTINGS, "plan": CropPlan(64), "step": 500, "samples": dataset.samples(), "dataset": dataset}
    return make_previews(models, PreviewRequest(**(given | {"out_folder": folder} | changes)), **runtime)


@pytest.mark.answers("There are no validation images")
def test_it_writes_images_rows_and_scores(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    record = preview(models, dataset, tmp_path)
    names = sorted(path.name for path in record.folder.iterdir())
    assert names == [*(f"0{i}{end}" for i in range(3) for end in ("-row.webp", ".webp")), "scores.json"]
    assert record == read_preview(tmp_path / "step-000500")
    assert record.captions[0] == "a photo of astronaut"
    assert [Image.open(path).size for path in record.pictures] == [(192, 64)] * 3
    about = json.loads((record.folder / "scores.json").read_text(encoding="utf-8"))
    each = [sample["scores"]["adherence"] for sample in about["samples"]]
    assert record.scores["adherence"] == pytest.approx(sum(each) / 3)
    assert all(-1 <= value <= 1 for value in each)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000500"]


def test_every_file_has_its_generation_settings(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    record = preview(models, dataset, tmp_path, seed=7)
    for name in ("01.webp", "01-row.webp"):
        text = settings_in(record.folder / name)
        assert text.splitlines()[0] == record.captions[1]
        for fact in ("Steps: 2", "Cfg scale: 7.5", "Seed: 8", "Checkpoint step: 500", "Size: 64x64"):
            assert fact in text


def test_probes_are_generated_but_not_part_of_the_mean(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    plain = preview(models, dataset, tmp_path / "plain")
    pairs = [read_pair(sample, dataset, CropPlan(64)) for sample in dataset.samples()[:3]]
    odd = probes.of_held_out(pairs, 2)
    assert [probe.kind for probe in odd] == ["empty", "empty", "contradicting", "contradicting"]
    record = preview(models, dataset, tmp_path / "odd", probes=odd)
    assert record.scores == plain.scores and record.figures == plain.figures
    assert [path.read_bytes() for path in record.pictures] == [path.read_bytes() for path in plain.pictures]
    assert [title for _, title in record.probes][:2] == ["Without a prompt"] * 2
    about = json.loads((record.folder / "scores.json").read_text(encoding="utf-8"))
    assert set(about["apart"]) == {"empty", "contradicting"}
    empty = [probe["scores"]["adherence"] for probe in about["probes"] if probe["kind"] == "empty"]
    assert about["apart"]["empty"]["adherence"] == pytest.approx(sum(empty) / 2)
    assert settings_in(record.probes[2][0]).splitlines()[0] == odd[2].prompt != odd[2].pair.sample.caption
    assert record == read_preview(record.folder)


@pytest.mark.long
def test_memory_returns_to_its_previous_level(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    """Number and bytes of live tensors are the same after the third preview as after the first."""

    def alive() -> tuple[int, int]:
        found = [thing for thing in living_objects() if issubclass(type(thing), torch.Tensor)]
        return len(found), sum(tensor.nbytes for tensor in found)

    cache = PreviewCache()
    one = SETTINGS.model_copy(update={"pictures": 2})
    preview(models, dataset, tmp_path, settings=one, cache=cache)
    before = alive()
    for step in (600, 700):
        preview(models, dataset, tmp_path, settings=one, cache=cache, step=step)
        assert alive() == before
    assert len(cache.best) == 2


def test_the_row_shows_map_image_and_original(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    record = preview(models, dataset, tmp_path)
    row = np.asarray(Image.open(record.pictures[0]).convert("RGB")).astype(int)
    picture = np.asarray(Image.open(record.folder / "00.webp").convert("RGB")).astype(int)
    assert np.abs(row[:, 64:128] - picture).mean() < 6
    assert np.median(np.abs(row[:, :64, 0][..., None] - np.array([0, 128, 255])).min(axis=2)) < 10


def test_images_without_control_are_scored_separately(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    record = preview(
        models, dataset, tmp_path, without_control=True, settings=SETTINGS.model_copy(update={"pictures": 1})
    )
    assert set(record.scores) == {"adherence", "adherence_without_control"}
    assert Image.open(record.pictures[0]).size == (256, 64)


def test_previews_do_not_affect_the_run(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    net = models.controlnet
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    wants = [weight.requires_grad for weight in net.parameters()]
    torch.manual_seed(5)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    preview(models, dataset, tmp_path)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert net.training and "forward" not in vars(net)
    assert not models.denoiser.training
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())
    assert [weight.requires_grad for weight in net.parameters()] == wants and all(wants)
    assert all(weight.grad is None for weight in net.parameters())


def test_repeating_a_step_replaces_its_images(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    first = preview(models, dataset, tmp_path)
    bytes_before = [path.read_bytes() for path in first.pictures]
    second = preview(models, dataset, tmp_path)
    assert [path.read_bytes() for path in second.pictures] == bytes_before
    assert second.scores == first.scores
    assert [path.name for path in tmp_path.iterdir()] == ["step-000500"]


def test_given_embeddings_are_used(
    models: Models, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = models.family
    tokenizer = family.load_tokenizer(models.base)
    text_encoder = family.load_text_encoder(models.base, torch.float32)
    own = preview(models, dataset, tmp_path / "own")

    def encode(captions: Any) -> list[dict[str, torch.Tensor]]:
        with torch.no_grad():
            rows = family.encode_text(tokenizer, text_encoder, captions)
        return [{name: table[number] for name, table in rows.items()} for number in range(len(captions))]

    monkeypatch.setattr(type(family), "load_text_encoder", lambda *_: pytest.fail("not needed"))
    given = preview(replace(models, encode=encode), dataset, tmp_path / "given")
    assert given.scores == pytest.approx(own.scores)


def test_cancelling_leaves_no_files_and_restores_the_mode(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    control = Control()
    with pytest.raises(Cancelled):
        preview(models, dataset, tmp_path, token=control.token, progress=lambda *_: control.cancel())
    assert not list(tmp_path.iterdir())
    assert models.controlnet.training


def test_progress_counts_denoising_steps(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    preview(models, dataset, tmp_path, progress=lambda done, total, _: seen.append((done, total)))
    assert seen == [(0, 6), (3, 6), (6, 6)]


def test_a_missing_image_is_reported(models: Models, dataset: Dataset, tmp_path: Path) -> None:
    from dataclasses import replace

    gone = replace(dataset.samples(0, 1)[0], image=tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"gone.png is no longer there"):
        preview(models, dataset, tmp_path, samples=[gone])
    assert models.controlnet.training
