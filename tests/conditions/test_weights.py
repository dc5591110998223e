from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.conditions import model_inputs, places, registry, weights
from engine.conditions.model_inputs import Preprocessing
from engine.errors import UserError
from tests.conditions import tiny_models
from tests.conditions.types.test_types import photographs
from tests.data.test_scan import CancelAfter, Cancelled

WITH_MODELS = [kind.name for kind in registry.all() if kind.models]


@pytest.mark.parametrize("name", WITH_MODELS)
def test_missing_weights_raise_an_error_with_name_size_and_folder(name: str) -> None:
    kind, values = registry.get(name), registry.resolve_parameters(name)
    lacking = weights.missing(kind, values)
    assert [entry.name for entry in lacking] == [need.id for need in kind.models]
    for entry, need in zip(lacking, kind.models, strict=True):
        assert f"{need.megabytes}" in entry.sentence and need.licence in entry.sentence
        assert entry.target.parent == places.models()
    with pytest.raises(UserError) as caught:
        kind.extractor(photographs()[0], **values)
    assert kind.models[-1].id in caught.value.what or kind.models[0].id in caught.value.what
    assert (
        "Nothing is downloaded without your consent" in caught.value.why
        and str(places.models()) in caught.value.try_this
    )


def test_weights_are_found_by_path_by_name_and_in_the_download_folder(tmp_path: Path) -> None:
    (need,) = registry.get("soft_edge").models
    file = tiny_models.hed(tmp_path / "mine.safetensors")
    assert weights.find(need, str(file)) == file
    named = tiny_models.hed(places.models() / "edges" / "hed.pth")
    assert weights.find(need, "edges") == weights.find(need, "edges/hed.pth") == named
    assert weights.find(need) is None
    fetched = tiny_models.hed(places.models() / "lllyasviel--Annotators" / "ControlNetHED.pth")
    assert weights.find(need) == fetched and weights.missing(registry.get("soft_edge"), {}) == []


def test_a_wrong_path_and_damaged_weights_raise_errors_with_the_cause(tmp_path: Path) -> None:
    kind = registry.get("soft_edge")
    with pytest.raises(UserError, match="were not found"):
        kind.extractor(photographs()[0], model=str(tmp_path / "nothing.pth"), steps=0)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError) as caught:
        kind.extractor(photographs()[0], model=str(broken), steps=0)
    assert "cannot be used" in caught.value.what and "damaged" in caught.value.why


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    import torch

    class Harm:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": {}, "harm": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(UserError, match="cannot be used"):
        registry.get("soft_edge").extractor(photographs()[0], model=str(tmp_path / "harm.pth"), steps=0)
    assert not (tmp_path / "ran").exists()


def test_a_model_is_loaded_once_and_released(tmp_path: Path) -> None:
    (need,) = registry.get("soft_edge").models
    file = str(tiny_models.hed(tmp_path / "hed.pth"))
    first = weights.loaded(need, file)
    assert weights.loaded(need, file) is first
    weights.free()
    assert weights.loaded(need, file) is not first


def test_images_are_batched_by_size_and_keep_their_order() -> None:
    wide, high = np.zeros((30, 60, 3), np.uint8), np.full((60, 30, 3), 255, np.uint8)
    how = Preprocessing((56, 56), True, 14, (0.5,) * 3, (0.5,) * 3)
    groups = model_inputs.preprocess([wide, high, wide], how)
    assert [(members, tuple(pixels.shape)) for members, pixels in groups] == [
        ([0, 2], (2, 3, 28, 56)),
        ([1], (1, 3, 56, 28)),
    ]
    assert float(groups[0][1].max()) == -1 and float(groups[1][1].min()) == 1
    square = model_inputs.preprocess([wide, high], Preprocessing((64, 48), False, 1, (0.5,) * 3, (0.5,) * 3))
    assert [members for members, _ in square] == [[0, 1]] and tuple(square[0][1].shape) == (2, 3, 64, 48)


def test_the_models_input_size_is_read(tmp_path: Path) -> None:
    def read(**about: object) -> Preprocessing:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(about), encoding="utf-8")
        return model_inputs.read_preprocessing(tmp_path, 512)

    assert read(size=384).size == (384, 384)
    assert read(size={"height": 480, "width": 640}, do_normalize=False).size == (480, 640)
    assert read(size={"shortest_edge": 448}).size == (448, 448)
    assert read(do_normalize=False).mean == (0, 0, 0) and read(image_mean=[0.5] * 3).mean == (0.5,) * 3
    assert model_inputs.read_preprocessing(tmp_path / "none", 512).size == (512, 512)


class Hub:
    """A fake hub with files by name."""

    def __init__(self, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        self.files, self.fetched = files, []  # type: ignore[var-annotated]
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.download)
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda api, name: list(files))

    def download(self, repo: str, name: str, local_dir: Path) -> None:
        if name not in self.files:
            raise OSError(f"404: {name}")
        self.fetched.append(name)
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes(self.files[name])


def test_a_download_fetches_the_needed_files_and_appears_when_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "README.md",
        "a/b.json",
    ]
    hub = Hub(dict.fromkeys(names, b"x"), monkeypatch)
    kind = registry.get("depth")
    lacking = weights.missing(kind, {})
    with pytest.raises(Cancelled):
        weights.download(lacking, CancelAfter(1))
    assert weights.missing(kind, {}) == lacking  # an incomplete model does not count
    weights.download(lacking)
    assert sorted(path.name for path in lacking[0].target.iterdir()) == sorted(names[:3])
    assert weights.missing(kind, {}) == [] and "README.md" not in hub.fetched


def test_a_failed_download_shows_the_reason_and_an_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub({}, monkeypatch)
    with pytest.raises(UserError) as caught:
        weights.download(weights.missing(registry.get("soft_edge"), {}))
    assert "404" in caught.value.why and "huggingface.co/lllyasviel/Annotators" in caught.value.try_this
