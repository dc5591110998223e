"""A small paired dataset and short runs on the tiny random base."""

from __future__ import annotations

from collections.abc import Callable
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
from engine.jobs.control import Control
from engine.jobs.events import Event
from engine.runs.run import Run
from engine.training.job import create_run, training_job
from engine.workspace.paths import Workspace

RunFactory = Callable[..., Run]


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


class Worker:
    """Runs a job in this thread, keeping its events; ``at_step`` maps a step to what the owner asks then,
    one word or several."""

    def __init__(self, workspace: Workspace, run: Run, at_step: dict[int, str] | None = None) -> None:
        self.control, self._at = Control(), at_step or {}
        self.events: list[Event] = []
        self.outcome = training_job(workspace, run)(self.control.token, self._emit)

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        step = getattr(event, "step", None)
        if type(event).__name__ == "StepDone" and step in self._at:
            for what in self._at[step].split():
                getattr(self.control, what)()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def new_run(ready_workspace: Workspace, make_config: Callable[..., RunConfig]) -> RunFactory:
    def make(**overrides: Any) -> Run:
        return create_run(ready_workspace, make_config(**overrides), {})

    return make
