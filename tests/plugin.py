"""Fixtures that several folders use: images, tiny bases, datasets, runs. conftest.py registers them as a plugin."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from engine.config import RunConfig
from engine.config.presets import resolve
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.demo.shapes import draw, random_scene, shape_mask
from engine.runs.run import Run
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace
from tests.checkpoint_folder import write_checkpoint
from tests.forked import Forks
from tests.short_runs import RunFactory


def threads_and_owners(name: str, but: set[threading.Thread]) -> list[tuple[threading.Thread, Any]]:
    """Running threads whose name begins so, and the object whose method each runs. ``but``: those left out."""
    running = [(thread, getattr(thread, "_target", None)) for thread in threading.enumerate() if thread not in but]
    return [(thread, run.__self__) for thread, run in running if run is not None and thread.name.startswith(name)]


@pytest.fixture(autouse=True)
def jobs_end_with_their_test() -> Iterator[None]:
    """Cancels jobs and queues that a test has left: they would compute beside the next tests, for minutes."""
    before = set(threading.enumerate())
    yield
    for _, queue in threads_and_owners("queue", before):
        queue.hold()
    for thread, runner in threads_and_owners("job-", before):
        runner.cancel()
        thread.join(60)
        assert not thread.is_alive(), f"{thread.name} goes on after its test"


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """Photographs that come with scikit-image, RGB uint8 (h, w, 3)."""
    from skimage import data

    return {name: getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable-Diffusion-1-shaped pipeline folder (fp32) with random, seeded weights, for images of 64 px."""
    from tests import tiny_bases

    folder, work = tmp_path_factory.mktemp("tiny_base"), tmp_path_factory.mktemp("tokenizer")
    return tiny_bases.build(folder, work, tiny_bases.UNET, {})


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shaped like Stable Diffusion 2.1: velocity, and noise alone at the last step."""
    from tests import tiny_bases

    folder, work = tmp_path_factory.mktemp("tiny_sd2"), tmp_path_factory.mktemp("tokenizer")
    schedule = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    return tiny_bases.build(folder, work, tiny_bases.SD2_UNET, schedule)


@pytest.fixture(scope="session")
def tiny_sd2_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shaped like Stable Diffusion 2-base: noise prediction."""
    from tests import tiny_bases

    folder, work = tmp_path_factory.mktemp("tiny_sd2_base"), tmp_path_factory.mktemp("tokenizer")
    return tiny_bases.build(folder, work, tiny_bases.SD2_UNET, {})


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shaped like Stable Diffusion XL: two text encoders, size conditions."""
    from tests import tiny_bases

    folder, work = tmp_path_factory.mktemp("tiny_sdxl"), tmp_path_factory.mktemp("tokenizer")
    return tiny_bases.build(folder, work, tiny_bases.SDXL_UNET, {}, two_encoders=True)


@pytest.fixture(scope="session")
def tiny_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shaped like Stable Diffusion 3.5 Medium: a transformer, flow matching, three text encoders."""
    from tests import tiny_bases

    return tiny_bases.build_sd3(tmp_path_factory.mktemp("tiny_sd3"), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shaped like FLUX.1 dev: a transformer that reads the guidance scale, CLIP and T5."""
    from tests import tiny_bases

    return tiny_bases.build_flux(tmp_path_factory.mktemp("tiny_flux"), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_zimage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shaped like Z-Image: a transformer over one stream, flow matching, Qwen3."""
    from tests import tiny_bases

    return tiny_bases.build_zimage(tmp_path_factory.mktemp("tiny_zimage"))


@pytest.fixture(params=["tiny_base", "tiny_sd2", "tiny_sd2_base", "tiny_sdxl"])
def any_base(request: pytest.FixtureRequest) -> Path:
    """A tiny base of each family in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def loud_controlnet(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ControlNet folder (fp32) for ``tiny_base`` whose outputs are not zero: as if trained, though on nothing."""
    from tests import tiny_bases

    return tiny_bases.write_loud_controlnet(tiny_base, tmp_path_factory.mktemp("controlnet"))


@pytest.fixture(scope="session")
def edges() -> Image.Image:
    """A control image of 64 px: a white ring on black."""
    ys, xs = np.mgrid[:64, :64]
    ring = np.abs(np.hypot(xs - 32, ys - 32) - 20) < 2
    return Image.fromarray(np.repeat(ring[..., None] * np.uint8(255), 3, axis=2))


@pytest.fixture(scope="session")
def blank() -> Image.Image:
    return Image.new("RGB", (64, 64))


@pytest.fixture(scope="session")
def paired_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve coloured shapes of 64 px with their outlines and captions."""
    folder = tmp_path_factory.mktemp("pairs")
    for name in ("images", "conditions"):
        (folder / name).mkdir()
    for number in range(12):
        scene = random_scene(np.random.default_rng([5, number]))
        mask = shape_mask(scene.shape, scene.centre, scene.radius, 64, scene.seed).astype(np.uint8)
        outline = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) * 255
        Image.fromarray(draw(scene, 64)).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(outline).convert("RGB").save(folder / "conditions" / f"{number:02d}.png")
        (folder / "images" / f"{number:02d}.txt").write_text(scene.caption, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def mixed_folder(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, np.ndarray]) -> Path:
    """Ten pieces of photographs, wide, tall and square, with their edges as maps."""
    folder = tmp_path_factory.mktemp("mixed")
    for name in ("images", "conditions"):
        (folder / name).mkdir()
    shapes = [(200, 100), (120, 220), (160, 160), (240, 130), (180, 180)] * 2
    for number, (width, height) in enumerate(shapes):
        photo = list(photos.values())[number % 4]
        piece = photo[20 : 20 + height, 10 + number : 10 + number + width]
        Image.fromarray(piece).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(cv2.Canny(piece, 80, 160)).convert("RGB").save(folder / "conditions" / f"{number:02d}.png")
        (folder / "images" / f"{number:02d}.txt").write_text(f"piece {number}", encoding="utf-8")
    return folder


@pytest.fixture
def ready_workspace(workspace: Workspace, paired_folder: Path, mixed_folder: Path) -> Workspace:
    """A workspace with the datasets "pairs" (all of 64 px) and "mixed" (of several shapes)."""
    Dataset.create(workspace, "pairs", scan_folder(paired_folder))
    Dataset.create(workspace, "mixed", scan_folder(mixed_folder))
    return workspace


@pytest.fixture
def make_config(tiny_base: Path) -> Callable[..., RunConfig]:
    """A config for 6 steps of 2 images at 64 px, without images and checks on the way, which take longer than the
    steps; with dotted overrides such as ``**{"train.steps": 3}``."""

    def make(**overrides: Any) -> RunConfig:
        nested: dict[str, Any] = {
            "model": {"base": str(tiny_base)},
            "data": {"dataset": "pairs", "resolution": 64, "held_out": 2},
            "optim": {"learning_rate": 1e-3},
            "train": {"steps": 6, "batch_size": 2, "precision": "fp32", "checkpoint_every": 100},
            "validation": {"every": 0, "check_every": 0},
        }
        for dotted, value in overrides.items():
            section, name = dotted.split(".")
            nested.setdefault(section, {})[name] = value
        return resolve(("test", nested))[0]

    return make


@pytest.fixture
def new_run(ready_workspace: Workspace, make_config: Callable[..., RunConfig]) -> RunFactory:
    def make(**overrides: Any) -> Run:
        return create_run(ready_workspace, make_config(**overrides), {})

    return make


@pytest.fixture
def checkpoint(loud_controlnet: Path, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "run" / "checkpoints" / "step-000500", loud_controlnet)


@pytest.fixture
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Conditions' models lie in a workspace of the test's own; none stays loaded, and no optional package counts."""
    from engine.conditions import places, weights, wheels

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(wheels, "installed", lambda need: None)  # whatever this Python happens to have
    monkeypatch.setattr(places, "current_workspace", [Workspace(tmp_path / "workspace")])
    yield
    weights.free()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Starts programs that need torch in no time, as forks of a process that has loaded it."""
    if not hasattr(os, "fork"):
        pytest.skip("Windows cannot fork")
    server = Forks()
    yield server
    server.close()
