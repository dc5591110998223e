"""Captions by a model: tiny random BLIP and Florence-2, loaded by the code that loads the real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.cli.main import main
from engine.data import autocaption
from engine.data import caption_edits as edits
from engine.data.autocaption import Captioner, caption_all, load
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace
from tests.data.tiny_captioners import tiny_blip, tiny_florence

MAKERS = {"blip": tiny_blip, "florence2": tiny_florence}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("captioners")
    return {kind: make(folder / kind) for kind, make in MAKERS.items()}


@pytest.fixture
def dataset(workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]) -> Dataset:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in photos.items():
        Image.fromarray(image).save(folder / f"{name}.jpg")
    (folder / "rocket.txt").write_text("mine", encoding="utf-8")
    return Dataset.create(workspace, "photos", scan_folder(folder))


def captions(dataset: Dataset) -> list[str]:
    return [sample.caption for sample in dataset.samples()]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_model_is_recognized_by_its_config_and_captions_every_image(
    kind: str, models: dict[str, Path], photos: dict[str, np.ndarray]
) -> None:
    captioner = load(str(models[kind]))
    assert captioner.architecture == kind
    images = [Image.fromarray(photo) for photo in photos.values()]
    texts = captioner.describe(images)
    assert len(texts) == 4 and all(texts) and len(set(texts)) > 1, "it looks at the image"
    assert texts == [captioner.describe([image])[0] for image in images], "alone as in a batch"
    assert not any(mark in text for text in texts for mark in ("<s>", "</s>", "[DEC]", "<pad>"))


@pytest.mark.parametrize("kind", MAKERS)
def test_only_empty_captions_are_written_and_one_undo_reverts_them(
    kind: str, dataset: Dataset, models: dict[str, Path]
) -> None:
    seen: list[tuple[int, int]] = []
    report = caption_all(
        dataset, load(str(models[kind])), progress=lambda done, total, label: seen.append((done, total)), batch=2
    )
    assert (report.written, report.kept, report.failures) == (3, 1, [])
    assert all(captions(dataset)) and captions(dataset)[-1] == "mine" and seen[-1] == (4, 4)
    assert len(dataset.captions.history()) == 1
    dataset.captions.undo()
    assert captions(dataset) == ["", "", "", "mine"]


@pytest.mark.answers("Preparing takes all day")
def test_a_cancelled_job_keeps_finished_captions_and_continues(
    dataset: Dataset, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner, control = load(str(models["blip"])), Control()
    with pytest.raises(Cancelled):
        caption_all(dataset, captioner, control.token, lambda done, *_: control.cancel(), only_empty=False, batch=2)
    half = captions(dataset)
    assert half[0] and half[1] and half[2:] == ["", "mine"]
    assert dataset.captions.history()[0].unfinished
    described: list[int] = []
    whole = Captioner.describe
    monkeypatch.setattr(
        Captioner, "describe", lambda self, some, length: described.append(len(some)) or whole(self, some, length)
    )
    caption_all(Dataset.open(dataset.folder), captioner, only_empty=False, batch=2)
    assert described == [2], "finished images are not looked at again"
    assert captions(dataset)[:2] == half[:2] and captions(dataset)[3] != "mine"
    assert [(entry.changed, entry.unfinished) for entry in dataset.captions.history()] == [(4, False)]
    dataset.captions.undo()
    assert captions(dataset) == ["", "", "", "mine"]


def test_out_of_memory_reduces_the_batch(
    dataset: Dataset, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[int] = []
    whole = Captioner.describe

    def tight(captioner: Captioner, some: Sequence[Image.Image], length: str) -> list[str]:
        described.append(len(some))
        if len(some) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return whole(captioner, some, length)

    monkeypatch.setattr(Captioner, "describe", tight)
    report = caption_all(dataset, load(str(models["blip"])), only_empty=False)
    assert (report.written, report.failures, described) == (4, [], [4, 2, 2])
    assert all(captions(dataset))


def test_a_missing_image_is_reported_and_skipped(dataset: Dataset, models: dict[str, Path]) -> None:
    (dataset.source / "coffee.jpg").unlink()
    report = caption_all(dataset, load(str(models["blip"])))
    assert (report.written, report.kept) == (2, 1)
    assert [problem.path.name for problem in report.failures] == ["coffee.jpg"]


def test_a_missing_model_raises_an_error_with_its_name_and_folder(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        load("Salesforce/blip-image-captioning-base", workspace.models)
    assert "huggingface.co/Salesforce/blip-image-captioning-base" in caught.value.try_this
    assert str(workspace.models / "blip-image-captioning-base") in caught.value.try_this
    with pytest.raises(UserError, match="neither a folder|no caption model"):
        load("no such thing", workspace.models)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llama"}, "not a supported caption model"),
        ({"model_type": "florence2", "auto_map": {"AutoConfig": "code.Config"}}, "its own program code"),
        ({"model_type": "blip"}, "cannot be loaded"),
    ],
)
def test_other_models_and_incomplete_ones_are_refused(tmp_path: Path, config: dict, words: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(str(tmp_path))
    assert words in caught.value.what


def test_a_model_in_the_workspace_is_found_by_name_and_the_command_line_uses_it(
    dataset: Dataset, workspace: Workspace, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.models / "blip").symlink_to(models["blip"], target_is_directory=True)
    start = ["--workspace", str(workspace.root), "captions", "photos"]
    assert main([*start, "--auto", "blip", "--only-empty"]) == 0
    assert "3 captions written, 1 kept" in capsys.readouterr().out
    assert main([*start, "--undo"]) == 0
    assert main([*start, "--template", "a photo of {name}", "--only-empty"]) == 0
    assert main([*start, "--replace", "photo", "picture", "--dry-run"]) == 0
    assert "3 of 4 captions would change" in capsys.readouterr().out
    assert captions(dataset)[0] == "a photo of astronaut"
    assert main([*start, "--set", "rocket.jpg", ""]) == 0
    assert "1 empty" in capsys.readouterr().out and edits.empty(dataset).empty == 1
    assert main([*start, "--set", "nothing.jpg", "x"]) == 2
    assert main([*start, "--replace", "(", "x", "--regex"]) == 2


def test_half_precision_is_used_on_gpus_only(models: dict[str, Path]) -> None:
    import torch

    captioner = load(str(models["florence2"]), device=torch.device("cpu"))
    assert captioner.model.dtype == torch.float32
    assert autocaption.architecture(str(models["florence2"])) == "florence2"
