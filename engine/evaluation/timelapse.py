"""Time-lapse: an animation of one preview image over all steps of a run, with the step number below it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageDraw

from engine.disk.durable import atomic_write
from engine.disk.images import load_rgb, opened
from engine.errors import UserError
from engine.evaluation.text_on_images import font_of
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted
from engine.runs.run import Run

Format = Literal["webp", "gif"]
MOST_FRAMES = 150
SECONDS, LAST_SECONDS = 0.4, 2.0
BAND = 0.09
"""Height of the band with the step number, as a fraction of the image's height; at least LEAST_BAND pixels."""
LEAST_BAND = 22
MOST_WIDTH = 1536


@dataclass(frozen=True)
class Frame:
    """One image and the step at which it was drawn."""

    step: int
    path: Path


def images_of(run: Run) -> list[str]:
    """Captions of the run's last preview images, of each of which a time-lapse can be made."""
    records = run.previews()
    return list(records[-1].captions) if records else []


def frames_of(run: Run, image: int, beside: bool = True) -> list[Frame]:
    """The images of one held-out pair in the order of their steps: at most MOST_FRAMES, evenly spread.

    Skips steps whose image belongs to another pair or has another size.

    Args:
        image: index of the preview image, from 0.
        beside: with the map on its left and the original on its right.

    Raises:
        UserError: the run has fewer than two such images.
    """
    found = []
    for record in run.previews():
        about = _about(record.folder)
        if about is not None and image < len(about["samples"]):
            sample = about["samples"][image]
            name = about["pictures"][image] if beside else sample["picture"]
            found.append((sample.get("key"), Frame(record.step, record.folder / name)))
    frames = [frame for key, frame in found if key == found[-1][0] and frame.path.is_file()]
    frames = [frame for frame in frames if _size(frame.path) == _size(frames[-1].path)]
    if len(frames) < 2:
        raise UserError(
            "No time-lapse can be made.",
            f"{run.name} has {counted(len(frames), 'preview image')} of control image {image + 1}; at "
            "least 2 are needed.",
            "Train until the next preview images, or choose another image.",
        )
    if len(frames) <= MOST_FRAMES:
        return frames
    places = sorted({round(number * (len(frames) - 1) / (MOST_FRAMES - 1)) for number in range(MOST_FRAMES)})
    return [frames[place] for place in places]


def _about(folder: Path) -> dict[str, Any] | None:
    try:
        about: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        return about if about["samples"] and about["pictures"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _size(path: Path) -> tuple[int, int]:
    with opened(path) as image:
        return image.size


def timelapse_path(run_folder: Path, image: int, kind: Format) -> Path:
    """The file for a time-lapse of this image, beside the run's grids. A new one replaces the old one."""
    return run_folder / "comparisons" / f"timelapse-{image + 1}.{kind}"


def make_timelapse(
    frames: Sequence[Frame],
    target: Path,
    kind: Format = "webp",
    seconds: float = SECONDS,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Writes the animation. Only one frame is in memory at a time.

    Args:
        seconds: duration of each frame. The last one is shown for at least LAST_SECONDS. The animation loops.
        progress: called as progress(frames done, total, label).

    Raises:
        Cancelled: the token was cancelled; nothing is left behind.
        UserError: an image is gone, or the disk is full.
    """
    last = frames[-1].step

    def drawn() -> Iterator[Image.Image]:
        for number, frame in enumerate(frames):
            if token:
                token.raise_if_cancelled()
            if progress:
                progress(number, len(frames), "Frames")
            yield _frame(frame, last)

    each = round(seconds * 1000)
    durations = [each] * (len(frames) - 1) + [max(each, round(LAST_SECONDS * 1000))]
    options: dict[str, Any] = {"quality": 88, "method": 4} if kind == "webp" else {"disposal": 1}
    target.parent.mkdir(parents=True, exist_ok=True)
    images = drawn()
    try:
        first = next(images)
        with atomic_write(target, unique=True) as temporary, temporary.open("wb") as file:
            first.save(file, kind.upper(), save_all=True, append_images=images, duration=durations, loop=0, **options)
    except OSError as error:
        raise UserError(
            "The time-lapse was not made.", f"{type(error).__name__}: {error}.", "Free some space, and try again."
        ) from error
    if progress:
        progress(len(frames), len(frames), "Frames")
    return target


def _frame(frame: Frame, last: int) -> Image.Image:
    """The image above a band with its step number and a progress bar."""
    try:
        image = load_rgb(frame.path)
    except UserError as error:
        raise UserError("The time-lapse was not made.", f"{frame.path}: {error.why}", "Make it again.") from error
    if image.width > MOST_WIDTH:
        height = round(image.height * MOST_WIDTH / image.width)
        image = image.resize((MOST_WIDTH, height), Image.Resampling.LANCZOS)
    band = max(LEAST_BAND, round(image.height * BAND))
    whole = Image.new("RGB", (image.width, image.height + band), (17, 24, 39))
    whole.paste(image, (0, 0))
    pen = ImageDraw.Draw(whole)
    pen.rectangle((0, image.height, round(image.width * frame.step / max(1, last)), image.height + 3), (45, 212, 191))
    words, font = f"step {frame.step:,}", font_of(round(band * 0.6))
    pen.text((band // 3, image.height + band // 2 + 2), words, fill="white", font=font, anchor="lm")
    return whole
