"""What the bundled base still draws after it was taught a new shape from a few images, with preservation and without.

Exact: an old caption counts as right if shape and both colours are. The untrained base is right in all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from engine.bases.merging import ready_base
from engine.demo.score import read_scene
from engine.demo.shapes import SHAPES, Scene, random_colours
from engine.runs.checkpoints import LORA
from engine.runs.run import Run
from engine.tuning.whole_base import DENOISER
from engine.workspace.paths import Workspace
from tests.learned_on_demo import DRAWN, drawn_on, taught
from tests.training.test_lora_learns import RIGHT, caption, likeness, scene_of_plus

OLD = 48
"""Captions of old shapes that are preserved; others are drawn."""
IMAGES, STEPS = 8, 200


def old_scenes(seed: int, count: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [Scene(str(rng.choice(SHAPES)), *random_colours(rng), (0, 0), 0) for _ in range(count)]


def trained_base(workspace: Workspace, run: Run) -> str:
    """Where the base is that a run has trained."""
    folder = run.checkpoints()[-1].folder
    target = run.folder / "base"
    shutil.copytree(workspace.locate_base("demo"), target)
    (weights,) = (target / "unet").glob("*.safetensors")
    save_file(load_file(folder / DENOISER), weights, {"format": "pt"})
    return str(target)


def figures(base: str) -> tuple[float, float]:
    """Shares of new shapes and of old scenes that are right."""
    rng = np.random.default_rng(2)
    new = drawn_on(base, [caption(*random_colours(rng)) for _ in range(DRAWN)])
    wanted = old_scenes(7, DRAWN)
    old = [read_scene(image) for image in drawn_on(base, [scene.caption for scene in wanted])]
    right = [found == (one.shape, one.foreground, one.background) for found, one in zip(old, wanted, strict=True)]
    return float(np.mean([likeness(image) > RIGHT for image in new])), float(np.mean(right))


@pytest.mark.long
def test_old_shapes_are_drawn_with_preservation_and_not_without(
    workspace: Workspace, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    preserved = {
        "preserve": "pictures",
        "class_prompt": "\n".join(scene.caption for scene in old_scenes(3, OLD)),
        "class_images": OLD,
    }
    settings: dict[str, Any] = {
        "optim": {"learning_rate": 5e-4},
        "train": {"steps": STEPS},
        "validation": {"sampling_steps": 12, "guidance_scale": 3},
    }
    found = {"none": figures(workspace.locate_base("demo"))}
    for name, more in (("without", {}), ("with", preserved)):
        run = taught(workspace, tmp_path / "plus", IMAGES, scene_of_plus, tuning={"what": "base"} | more, **settings)
        found[name] = figures(trained_base(workspace, run))
    told = "; ".join(f"{name}: new {new:.2f}, old {old:.2f}" for name, (new, old) in found.items())
    record_property("figures", told)
    assert found["none"][1] >= 0.9 and found["without"][1] < 0.5, told
    assert found["with"][1] >= 0.9 and found["with"][0] > found["none"][0], told


@pytest.mark.long
def test_a_lora_keeps_old_shapes_by_the_answers_of_the_base(
    workspace: Workspace, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Without them, it draws a third of the old captions right (docs/teaching-the-base.md)."""
    class_prompts = "\n".join(scene.caption for scene in old_scenes(3, OLD))
    tuning = {"what": "lora", "rank": 8, "layers": "all", "preserve": "answers", "class_prompt": class_prompts}
    settings: dict[str, Any] = {"optim": {"learning_rate": 3e-3}, "train": {"steps": STEPS}}
    run = taught(workspace, tmp_path / "plus", IMAGES, scene_of_plus, tuning=tuning, **settings)
    new, old = figures(ready_base(workspace, f"demo + {run.checkpoints()[-1].folder / LORA}"))
    told = f"new {new:.2f}, old {old:.2f}"
    record_property("figures", told)
    assert old >= 0.9 and new >= 0.5, told
