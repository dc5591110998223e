"""Control images for a run: held-out maps, the map of a photograph, and whether an image looks like its maps."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.conditions import registry
from engine.data.captions import add_trigger
from engine.errors import UserError
from engine.runs.run import Run
from engine.tuning.facts import require_drawn
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from PIL import Image

    from engine.conditions.declaration import ConditionType
    from engine.data.dataset import Dataset
    from engine.data.samples import Sample
    from engine.jobs.control import CancelToken

MAPS_COMPARED = 16
"""Number of held-out maps that an image is compared with."""


def held_out_maps(workspace: Workspace, run: Run) -> list[tuple[Path, str]]:
    """Return maps and captions of the pairs that the run was not trained on; none if its dataset is gone."""
    try:
        dataset, samples = _held_out(workspace, run)
        return [(dataset.condition_path(sample), sample.caption) for sample in samples]
    except UserError:
        return []  # Try it still works with an image of the user


def usual_prompt(workspace: Workspace, run: Run) -> str:
    """Return a prompt for a run that teaches the base: the caption of a held-out image, with the run's word; without
    captions the first class prompt."""
    tuning = run.config.tuning
    try:
        captions = [sample.caption for sample in _held_out(workspace, run)[1]]
    except UserError:
        captions = []  # its dataset is gone
    return add_trigger(next(filter(None, (*captions, *tuning.class_prompts)), ""), tuning.caption_word)


def _held_out(workspace: Workspace, run: Run) -> tuple[Dataset, list[Sample]]:
    from engine.data.dataset import Dataset
    from engine.data.held_out import split

    dataset = Dataset.open(workspace.dataset_folder(run.config.data.dataset))
    return dataset, split(dataset, run.config.data.held_out, run.held_out).held_out


def condition_type(run: Run) -> ConditionType:
    """Return the type of a run's condition maps.

    Raises:
        UserError: no images can be drawn with what the run trains.
    """
    require_drawn(run.config, run.name)
    return registry.get(str(run.condition.get("type", "")))


def blank_map(width: int, height: int) -> Image.Image:
    """A black control image, for what is drawn without control."""
    from PIL import Image

    return Image.new("RGB", (width, height))


def map_of(run: Run, image: Image.Image, token: CancelToken | None = None) -> Image.Image:
    """Extract the map of a photograph, with the settings that made the run's training maps.

    Raises:
        UserError: the run's maps came with its images, and the app cannot extract that kind.
        Cancelled: the token was cancelled.
    """
    import numpy as np
    from PIL import Image

    kind = condition_type(run)
    if kind.extract is None:
        raise UserError(
            "A map cannot be made from this image.",
            f"The run was trained on maps of the kind “{kind.title}”, which the app cannot make.",
            "Provide a map, and tick the box that says it already is one.",
        )
    stored = registry.stored_parameters(kind.name, run.condition["parameters"])
    parameters = registry.resolve_parameters(kind.name, stored)
    pixels = np.asarray(at_side(image.convert("RGB"), run.condition.get("side") or 0))
    return Image.fromarray(kind.map_of(pixels, parameters, token))


def at_side(image: Image.Image, side: int) -> Image.Image:
    """An image scaled down to a shorter side of ``side`` pixels, 0 for none: lines are as wide as in training."""
    if not side or min(image.size) <= side:
        return image
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), reducing_gap=3.0)


def look_warning(workspace: Workspace, run: Run, image: Image.Image) -> str:
    """Return a warning if an image does not look like the maps that the run was trained on, else an empty string."""
    from engine.conditions.similarity import warning

    return warning(image, _looks_of(workspace, run))


def advice(workspace: Workspace, run: Run, image: Image.Image, is_map: bool) -> str:
    """Return a hint about an uploaded image, or an empty string if it is what ``is_map`` says."""
    from engine.conditions.similarity import differences, statistics_of

    if is_map:
        return look_warning(workspace, run, image)
    kind, looks = condition_type(run), _looks_of(workspace, run)
    if looks and not differences(statistics_of(image), looks):
        return "This already looks like a map: if it is one, tick the box."
    if kind.extract is None:
        return f"The app cannot make maps of the kind “{kind.title}”: provide a map, and tick the box."
    return ""


def _looks_of(workspace: Workspace, run: Run) -> tuple[Any, ...]:
    paths = [path for path, _ in held_out_maps(workspace, run)[:MAPS_COMPARED]]
    return _looks(tuple((path, path.stat().st_mtime_ns) for path in paths if path.is_file()))


@lru_cache(maxsize=8)
def _looks(files: tuple[tuple[Path, int], ...]) -> tuple[Any, ...]:
    from engine.conditions.similarity import statistics_of
    from engine.disk.images import load_map

    return tuple(statistics_of(load_map(path)) for path, _ in files)
