"""Probes: images that are drawn besides the held-out pairs and scored separately from them.

With an empty prompt: does the net draw from the map alone? With a prompt that contradicts the image: which of the two
wins? And images and prompts of the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from engine.conditions import registry, weights
from engine.config import ValidationConfig
from engine.config.validation import MOST_OWN
from engine.data.crop import apply_crop
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.make_maps import read_image
from engine.data.samples import Sample
from engine.disk.images import load_rgb
from engine.disk.text import read_text
from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.evaluation.pairs import Pair
from engine.jobs.control import CancelToken

Kind = Literal["empty", "contradicting", "own"]
TITLES: dict[Kind, str] = {
    "empty": "Without a prompt",
    "contradicting": "Against the image",
    "own": "Your own",
}
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Probe:
    """One image to draw: the map of a pair with another prompt."""

    kind: Kind
    pair: Pair
    prompt: str

    @property
    def title(self) -> str:
        return f"{TITLES[self.kind]}: {self.prompt}" if self.prompt else TITLES[self.kind]


def of_held_out(pairs: Sequence[Pair], count: int) -> list[Probe]:
    """``count`` pairs with an empty prompt, and ``count`` with the caption that shares the fewest words with their own.

    If all captions have the same words, there are no contradicting probes.
    """
    captions = [pair.sample.caption for pair in pairs]
    found = [Probe("empty", pair, "") for pair in pairs[:count]]
    for pair in pairs[:count]:
        other = least_like(pair.sample.caption, captions)
        if other is not None:
            found.append(Probe("contradicting", pair, other))
    return found


def least_like(caption: str, others: Sequence[str]) -> str | None:
    """The text with the smallest fraction of words in common (Jaccard). None if all have the same words."""
    words = _words(caption)
    shared = [(len(words & _words(other)) / max(1, len(words | _words(other))), n) for n, other in enumerate(others)]
    share, number = min(shared, default=(1.0, 0))
    return others[number] if share < 1 and _words(others[number]) else None


def _words(caption: str) -> set[str]:
    return set(re.findall(r"\w+", caption.lower()))


def own(
    settings: ValidationConfig,
    dataset: Dataset,
    plan: CropPlan,
    pairs: Sequence[Pair],
    token: CancelToken | None = None,
) -> list[Probe]:
    """Probes of the user's images and prompts. Prompts without images use the maps of the held-out pairs in turn.

    An image's prompt comes from the text file beside it (name.txt), or else from the user's prompts in turn.

    Raises:
        UserError: the folder does not exist, an image cannot be read, or its map cannot be made.
        Cancelled: the token was cancelled.
    """
    prompts = settings.own_prompts
    if not settings.pictures_folder:
        return [Probe("own", pairs[n % len(pairs)], text) for n, text in enumerate(prompts[:MOST_OWN]) if pairs]
    found = []
    for number, path in enumerate(_images(settings.pictures_folder)):
        beside = path.with_suffix(".txt")
        prompt = prompts[number % len(prompts)] if prompts else ""
        if beside.is_file():
            prompt = read_text(beside).text.strip()
        found.append(Probe("own", _own_pair(path, prompt, settings, dataset, plan, token), prompt))
    return found


def _images(folder: str) -> list[Path]:
    place = Path(typed_path(folder)).expanduser()
    if not place.is_dir():
        raise UserError(
            "Your own test images were not found.",
            f"{place} is not a folder.",
            "Enter a folder with a few images, or leave “Your images” empty.",
        )
    paths = sorted(path for path in place.iterdir() if path.suffix.lower() in IMAGES)
    return paths[:MOST_OWN]


def _own_pair(
    path: Path,
    prompt: str,
    settings: ValidationConfig,
    dataset: Dataset,
    plan: CropPlan,
    token: CancelToken | None,
) -> Pair:
    image = load_rgb(path)
    spec = dataset.condition
    condition = registry.get(spec.type) if spec else None
    sample = Sample(f"own/{path.name}", path, prompt, None, image.width, image.height)
    if settings.pictures_are_maps or spec is None or condition is None or condition.extract is None:
        map = image
    elif weights.missing(condition, spec.parameters):
        raise UserError(
            f"The control image for your image {path.name} cannot be made.",
            f"The weights of {condition.title} are not on this computer.",
            "Download them on the Conditions tab, or provide finished control images and tick “These are already "
            "control images”.",
        )
    else:
        from PIL import Image

        map = Image.fromarray(condition.map_of(read_image(path, spec.resolution), spec.parameters, token))
    crop = plan.crop(sample, image=image)
    nearest = condition is not None and condition.categorical
    return Pair(sample, np.asarray(apply_crop(map, crop, nearest=nearest)), np.asarray(apply_crop(image, crop)))
