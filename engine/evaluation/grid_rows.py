"""The rows of a grid: all combinations of control images, prompts, seeds and strengths."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from engine.data.cache import cropped_map
from engine.data.crop import apply_crop, shared_crop
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.disk.images import load_rgb
from engine.errors import UserError
from engine.evaluation.grid import GridRequest, held_out_pairs
from engine.inference.control_image import condition_type
from engine.inference.settings import declared
from engine.runs.run import Run
from engine.workspace.paths import Workspace


@dataclass(frozen=True)
class GridRow:
    """The values that all images of a row share. ``control``: RGB, in the size to draw."""

    source: str
    control: Image.Image
    prompt: str
    seed: int
    strength: float


def rows_of(workspace: Workspace, run: Run, request: GridRequest) -> list[GridRow]:
    """All combinations. Control images change slowest, strengths fastest.

    Raises:
        UserError: there is no control image, one is missing, or a number is out of range.
    """
    seeds, strengths = request.seeds or (0,), request.strengths or (run.config.validation.strength,)
    problems = [declared()["strength"].problem(strength) for strength in strengths]
    problems += [declared()["seed"].problem(seed) for seed in seeds]
    if any(problems):
        raise UserError("The grid was not drawn.", " ".join(dict.fromkeys(filter(None, problems))), "Correct it.")
    shown = [*_held_out(workspace, run, request.pictures), *_own(run, request.controls)]
    if not shown:
        raise UserError(
            "The grid was not drawn.",
            "There is no control image: none was chosen, or the run's dataset is missing.",
            "Choose held-out images, or add a control image of your own.",
        )
    return [
        GridRow(source, control, prompt, seed, strength)
        for source, control, caption in shown
        for prompt, seed, strength in itertools.product(request.prompts or (caption,), seeds, strengths)
    ]


def _held_out(workspace: Workspace, run: Run, numbers: tuple[int, ...]) -> list[tuple[str, Image.Image, str]]:
    """Source, map and caption of held-out pairs, cropped as in training."""
    pairs = held_out_pairs(workspace, run) if numbers else []
    if not pairs:
        return []
    dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    plan = CropPlan.of(run.config.data, run.config.train.seed)
    nearest = condition_type(run).categorical
    found = []
    for number in dict.fromkeys(numbers):
        if not 0 <= number < len(pairs):
            raise UserError(
                "The grid was not drawn.",
                f"There is no held-out image {number + 1}: the run has {len(pairs)}.",
                "Choose a smaller number.",
            )
        pair = pairs[number]
        control = cropped_map(dataset.condition_path(pair), plan.crop(pair), nearest, pair.old_ground)
        found.append((f"held-out image {number + 1}", Image.fromarray(control), pair.caption))
    return found


def _own(run: Run, paths: tuple[Path, ...]) -> list[tuple[str, Image.Image, str]]:
    """The user's control images, cropped to the run's resolution, with an empty prompt."""
    side = run.config.data.resolution
    nearest = condition_type(run).categorical
    found = []
    for path in paths:
        image = load_rgb(path)
        found.append((path.name, apply_crop(image, shared_crop(image.width, image.height, side), nearest), ""))
    return found
