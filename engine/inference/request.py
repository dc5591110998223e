"""One image to draw: its settings, its models and its input images; and the check before drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from engine.errors import UserError
from engine.inference.settings import SIZE_STEP, DrawSettings, PromptSettings, SamplingOptions, declared
from engine.workspace.base_reference import parse_ingredients

LIVE = Path("live weights")
"""In place of a checkpoint: the weights of the run that is training now."""


@dataclass(frozen=True, kw_only=True)
class TryRequest(DrawSettings):
    """One image to draw.

    ``base``: "demo", a folder, a name in the workspace's models, or a hub id. ``second``, like ``controlnet``, may be a
    checkpoint's folder, a ControlNet in diffusers layout or a file of any export format.
    """

    controlnet: Path
    """The ControlNet, or ``LIVE``."""
    control: Image.Image
    """Its control image, finished: RGB of any size."""
    without_control: bool = False
    """Draw the same noise with the ControlNet switched off; the second one stays on."""
    image: Image.Image | None = None
    """Start from this image instead of from noise (img2img)."""
    mask: Image.Image | None = None
    """White where ``image`` is redrawn (inpainting); None: everywhere."""
    second_control: Image.Image | None = None
    """Control image of the second ControlNet; None: ``control``."""


def prepare(request: TryRequest) -> tuple[TryRequest, list[str]]:
    """Check a request. Returns it with a size that can be drawn, and a note for each thing that is changed.

    Raises:
        UserError: settings out of bounds, all of them at once.
    """
    problems = [one.problem(getattr(request, name)) for name, one in declared().items()]
    if request.start >= request.end:
        problems.append("Control start must be below control end.")
    if request.mask is not None and request.image is None:
        problems.append("A mask needs an image.")
    try:
        parse_ingredients(request.ingredients)
    except ValueError as error:
        problems.append(f"In the list of LoRA and embedding files, {error}.")
    if any(problems):
        raise UserError("The image cannot be drawn.", " ".join(filter(None, problems)), "Correct it.")
    notes = []
    size = (request.width, request.height)
    if any(side % 8 for side in size):
        width, height = (max(SIZE_STEP, round(side / SIZE_STEP) * SIZE_STEP) for side in size)
        notes.append(f"The size was rounded from {size[0]} x {size[1]} to {width} x {height}.")
        size = (width, height)
    for what, image in (("control image", request.control), ("image to draw over", request.image)):
        if image is not None and image.size != size:
            how = "resized" if image.width * size[1] == image.height * size[0] else "cropped and resized"
            notes.append(f"The {what} was {how}: {image.width} x {image.height} to {size[0]} x {size[1]}.")
    if request.guess and request.balance != "balanced":
        notes.append("Guess mode does not use the control mode.")
    return replace(request, width=size[0], height=size[1]), notes


def steps_drawn(request: TryRequest) -> int:
    """Return how many denoising steps are really done: img2img does only the last ``change`` of them."""
    if request.image is None:
        return request.steps
    return max(1, int(request.steps * request.change))


def batch_key(request: TryRequest) -> tuple[Any, ...]:
    """Return what the requests of one batch have in common."""
    per_image = declared(PromptSettings)
    alike = {name: getattr(request, name) for name in declared() if name not in per_image}
    alike["strength"] = strength_of(request)
    return *alike.values(), request.controlnet, request.image is None, request.mask is None


def strength_of(request: TryRequest) -> float:
    """Return the scale of the ControlNet's outputs."""
    return 0.0 if request.without_control else request.strength


def sampling_options(request: TryRequest) -> SamplingOptions:
    """Return the settings that the sampling loop takes."""
    values = {name: getattr(request, name) for name in declared(SamplingOptions)}
    return SamplingOptions(**values | {"strength": strength_of(request)})


def batches(requests: Sequence[TryRequest], most: int) -> list[list[TryRequest]]:
    """Group neighbours that can be drawn together, at most ``most`` in a batch."""
    grouped: list[list[TryRequest]] = []
    for request in requests:
        last = grouped[-1] if grouped else []
        if last and len(last) < most and batch_key(last[0]) == batch_key(request):
            last.append(request)
        else:
            grouped.append([request])
    return grouped
