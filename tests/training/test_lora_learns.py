"""A LoRA teaches the bundled base a shape that it has never seen, and its file draws it. Exact: shapes are measured.

A plus sign is called "zrp", a word that the base's tokenizer spells in letters.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.bases.merging import ready_base
from engine.config import ValidationConfig, parse
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.demo.score import Region, read_image
from engine.demo.shapes import Scene, draw, paint, random_colours, random_scene
from engine.evaluation.pairs import ImageRequest, Models, to_images
from engine.evaluation.pairs import draw as draw_with
from engine.families.registry import detect
from engine.families.silent import SilentControlNet
from engine.runs.checkpoints import LORA
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace
from tests.short_runs import train

SIDE = 128
IMAGES, STEPS, BATCH = 64, 400, 8
DRAWN = 24
RIGHT = 0.75
"""Smallest overlap (intersection over union) with a plus sign of the same place and area."""


def plus(centre: tuple[float, float], arm: float) -> np.ndarray:
    """Mask (SIDE, SIDE) of a plus sign whose arms are ``arm`` pixels long, and two thirds as wide."""
    ys, xs = np.mgrid[:SIDE, :SIDE]
    x, y = np.abs(xs - centre[0]), np.abs(ys - centre[1])
    return (np.maximum(x, y) <= arm) & (np.minimum(x, y) <= arm / 3)


def caption(figure: str, ground: str) -> str:
    """As the base knows captions, with the new word in the shape's place."""
    return Scene("zrp", figure, ground, (0, 0), 0).caption


def figure_and_ground(image: np.ndarray) -> tuple[Region, Region] | None:
    """The two regions of an image; the ground has most of the border. None: it has a single colour."""
    regions = read_image(image)
    if regions is None:
        return None
    border = [np.concatenate([r.mask[0], r.mask[-1], r.mask[:, 0], r.mask[:, -1]]).mean() for r in regions]
    return regions if border[0] < border[1] else (regions[1], regions[0])


def colours_of(image: np.ndarray) -> tuple[str, str]:
    """Names of the colours of figure and ground."""
    found = figure_and_ground(image)
    return (found[0].name, found[1].name) if found else ("", "")


def likeness(image: np.ndarray) -> float:
    """Overlap of an image's figure with a plus sign of its own place and area, 0 to 1."""
    found = figure_and_ground(image)
    if found is None:
        return 0.0
    largest = cv2.connectedComponentsWithStats(found[0].mask.astype(np.uint8))
    number = 1 + int(largest[2][1:, cv2.CC_STAT_AREA].argmax())
    figure = largest[1] == number
    ideal = plus(tuple(largest[3][number]), (figure.sum() / (20 / 9)) ** 0.5)  # area 20/9 arm^2
    return float((figure & ideal).sum() / (figure | ideal).sum())


def write_set(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(IMAGES):
        figure, ground = random_colours(rng)
        centre, arm = tuple(rng.uniform(0.35, 0.65, 2) * SIDE), rng.uniform(0.2, 0.32) * SIDE
        Image.fromarray(paint(plus(centre, arm), figure, ground)).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(caption(figure, ground), encoding="utf-8")


def drawn_on(base: str, captions: list[str]) -> list[np.ndarray]:
    family = detect(base)
    denoiser = family.load_denoiser(base, torch.float32)
    models = Models(family, base, denoiser, SilentControlNet(denoiser))
    blank = np.zeros((SIDE, SIDE, 3), np.uint8)
    requests = [ImageRequest(blank, caption, 100 + number) for number, caption in enumerate(captions)]
    settings = ValidationConfig(sampling_steps=12, guidance_scale=3)
    return to_images(models, family.load_vae(base), draw_with(models, requests, settings, batch=8), None)


@pytest.mark.long
@pytest.mark.xfail(strict=True, reason="400 steps teach the shape (0.83 of 24 right), but not yet its colours (0.04)")
def test_a_new_shape_is_learned_and_drawn_from_the_file(workspace: Workspace, tmp_path: Path) -> None:
    """The test of the test first: the measure knows a plus sign from the base's own shapes."""
    rng = np.random.default_rng(0)
    assert likeness(paint(plus((60, 70), 30), "red", "white")) > 0.95
    others = [likeness(draw(random_scene(rng), SIDE)) for _ in range(40)]
    assert max(others) < RIGHT

    write_set(tmp_path / "zrp")
    Dataset.create(workspace, "zrp", scan_folder(tmp_path / "zrp"))
    settings = {
        "tuning": {"what": "lora", "rank": 8},
        "model": {"base": "demo"},
        "data": {"dataset": "zrp", "resolution": SIDE, "held_out": 2},
        "optim": {"learning_rate": 3e-3},
        "train": {"steps": STEPS, "batch_size": BATCH, "precision": "fp32", "checkpoint_every": STEPS},
        "validation": {"every": 0, "check_every": 0},
    }
    run = create_run(workspace, parse(settings), {})
    assert train(workspace, run).outcome == "completed"
    rng = np.random.default_rng(2)
    pairs = [random_colours(rng) for _ in range(DRAWN)]
    captions = [caption(*pair) for pair in pairs]
    merged = ready_base(workspace, f"demo + {run.checkpoints()[-1].folder / LORA}")
    images, before = drawn_on(merged, captions), drawn_on(workspace.locate_base("demo"), captions)
    shapes, known = (np.mean([likeness(image) > RIGHT for image in drawn]) for drawn in (images, before))
    colours = np.mean([colours_of(image) == pair for image, pair in zip(images, pairs, strict=True)])
    assert known < 0.2, "the base itself does not know the word"
    assert shapes >= 0.8 and colours >= 0.8, f"right shapes {shapes:.2f}, right colours {colours:.2f}"
