"""What is asked of Try it: one image, and the numbers it may have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from engine.errors import UserError
from engine.inference import samplers

SIZE_STEP = 64  # three halvings of the latents, an eighth of the image's size
MAX_SIDE = 2048
LIVE = Path("live weights")
"""In place of a checkpoint: the weights of the run that is training now."""


@dataclass(frozen=True)
class TryRequest:
    """One image to draw. ``control`` is already a condition map, RGB of any size; ``width`` and ``height`` in px."""

    base: str
    """As in the settings: "demo", a folder, a name in the workspace's models, or a hub id."""
    controlnet: Path
    """A checkpoint's folder, a ControlNet in diffusers layout, a file of any export format, or ``LIVE``."""
    prompt: str
    control: Image.Image
    negative: str = ""
    seed: int = 0
    steps: int = 20
    guidance: float = 7.5
    strength: float = 1.0
    width: int = 512
    height: int = 512
    without_control: bool = False
    """Draw the same noise with the ControlNet switched off (a second one beside it stays on)."""
    sampler: str = samplers.DEFAULT
    start: float = 0.0
    end: float = 1.0
    """The control speaks between these shares of the steps."""
    guess: bool = False
    balance: str = "balanced"
    image: Image.Image | None = None
    """Drawn over instead of beginning at noise (img2img)."""
    change: float = 0.75
    """How much of ``image`` is drawn anew: 0 leaves it, 1 forgets it."""
    mask: Image.Image | None = None
    """White where ``image`` is drawn anew (inpainting); None: everywhere."""
    second: Path | None = None
    """Another ControlNet that speaks along, of any kind that ``controlnet`` may be."""
    second_control: Image.Image | None = None
    """Its map; None: the same."""
    second_strength: float = 1.0


def prepare(request: TryRequest) -> tuple[TryRequest, list[str]]:
    """The request with sizes that can be drawn, and a sentence for each thing that was changed.

    Raises:
        UserError: a number is out of its range.
    """
    samplers.sampler(request.sampler)
    samplers.balance(request.balance)
    problems = [
        text
        for wrong, text in (
            (min(request.width, request.height) < SIZE_STEP, f"the size has to be at least {SIZE_STEP} px"),
            (max(request.width, request.height) > MAX_SIDE, f"the size can be at most {MAX_SIDE} px"),
            (not 1 <= request.steps <= 1000, "the steps have to lie between 1 and 1000"),
            (not 1 <= request.guidance <= 100, "the guidance scale has to lie between 1 and 100"),
            (not 0 <= request.strength <= 10, "the strength has to lie between 0 and 10"),
            (not 0 <= request.second_strength <= 10, "the second strength has to lie between 0 and 10"),
            (not 0 <= request.seed < 2**62, "the seed has to be a whole number from 0 on"),
            (not 0 <= request.start < request.end <= 1, "the control has to start before it ends, both within 0 and 1"),
            (not 0 < request.change <= 1, "how much is drawn anew has to lie above 0 and up to 1"),
            (request.mask is not None and request.image is None, "a mask needs an image that it belongs to"),
        )
        if wrong
    ]
    if problems:
        raise UserError("The image cannot be drawn.", f"{'; '.join(problems).capitalize()}.", "Correct it.")
    words = []
    size = (request.width, request.height)
    if any(side % 8 for side in size):
        width, height = (max(SIZE_STEP, round(side / SIZE_STEP) * SIZE_STEP) for side in size)
        words.append(f"The size was rounded from {size[0]} x {size[1]} to {width} x {height}.")
        size = (width, height)
    for what, image in (("control image", request.control), ("image to draw over", request.image)):
        if image is not None and image.size != size:
            how = "resized" if image.width * size[1] == image.height * size[0] else "cut to the shape and resized"
            words.append(f"The {what} was {how}: {image.width} x {image.height} to {size[0]} x {size[1]}.")
    if request.guess and request.balance != "balanced":
        words.append("Guess mode has a balance of its own: the chosen one was not used.")
    return replace(request, width=size[0], height=size[1]), words


def steps_drawn(request: TryRequest) -> int:
    """Steps that are really done: over an image only as many as it takes to draw its share anew."""
    if request.image is None:
        return request.steps
    return max(1, int(request.steps * request.change))


def shared(request: TryRequest) -> tuple[Any, ...]:
    """What images of one batch have in common."""
    return (
        request.base, request.controlnet, request.steps, request.guidance, request.width, request.height,
        strength_of(request), request.sampler, request.start, request.end, request.guess, request.balance,
        request.image is None, request.mask is None, request.change, request.second, request.second_strength,
    )  # fmt: skip


def strength_of(request: TryRequest) -> float:
    return 0.0 if request.without_control else request.strength
