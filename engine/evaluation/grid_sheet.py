"""Exports a grid as one image with labels."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from engine.disk.durable import atomic_write_bytes
from engine.errors import UserError
from engine.evaluation.grid import Grid, RowLabel
from engine.evaluation.image_cache import ImageCache
from engine.evaluation.text_on_images import fitting, font_of
from engine.machine.units import counted

Format = Literal["png", "webp"]
MOST_SIDE = 16_000
"""Pixels. WebP allows 16,383."""
MOST_AREA = 120_000_000
GAP = 6
WHITE, INK, QUIET, BEST = (255, 255, 255), (17, 24, 39), (75, 85, 99), (15, 118, 110)


def sheet(grid: Grid, cache: ImageCache) -> Image.Image:
    """Draws the grid: checkpoint titles above the columns; control image, prompt, seed and strength beside the rows.

    The best checkpoint is marked. Images are scaled down if the sheet would be too large to open.
    """
    scale = _scale(grid)
    width = max(1, round(max(row.width for row in grid.rows) * scale))
    heights = [max(1, round(row.height * scale)) for row in grid.rows]
    font_size = max(11, min(28, width // 14))
    head, foot = round(font_size * 3.2), round(font_size * 2.0)
    aside = width + GAP * 2 + max(round(width * 0.9), font_size * 11)
    size = (aside + len(grid.columns) * (width + GAP) + GAP, head + sum(heights) + GAP * len(heights) + foot)
    whole = Image.new("RGB", size, WHITE)
    pen, font, small = ImageDraw.Draw(whole), font_of(font_size), font_of(max(10, round(font_size * 0.82)))

    left_of = [aside + number * (width + GAP) for number in range(len(grid.columns))]
    for left, column in zip(left_of, grid.columns, strict=True):
        best = column.step is not None and column.step == grid.best and not column.live
        colour = BEST if best else INK
        lines = fitting(column.title, font, width, 1) + (["best according to the verdict"] if best else [])
        for number, line in enumerate(lines):
            used = font if number == 0 else small
            pen.text((left + width // 2, font_size * (0.9 + 1.3 * number)), line, fill=colour, font=used, anchor="mm")
        if best:
            box = (left - GAP // 2, head - GAP, left + width + GAP // 2 - 1, size[1] - foot - GAP // 2)
            pen.rectangle(box, outline=BEST, width=3)
    top = head
    for row, cells, height in zip(grid.rows, grid.cells, heights, strict=True):
        _row_head(whole, pen, row, cache.open(row.control), (GAP, top, width, height), aside, (font, small), font_size)
        for left, key in zip(left_of, cells, strict=True):
            image = cache.open(key) if key else None
            if image is None:
                pen.rectangle((left, top, left + width - 1, top + height - 1), outline=(209, 213, 219))
                pen.text((left + width // 2, top + height // 2), "not drawn", fill=QUIET, font=small, anchor="mm")
                continue
            shown = _fit(image, width, height)
            whole.paste(shown, (left + (width - shown.width) // 2, top))
        top += height + GAP
    pen.text((GAP, size[1] - foot / 2), _foot(grid), fill=QUIET, font=small, anchor="lm")
    return whole


def save_sheet(grid: Grid, cache: ImageCache, target: Path, kind: Format) -> Path:
    """Writes the image. A PNG has the settings in its text chunk."""
    whole, buffer = sheet(grid, cache), io.BytesIO()
    options: dict[str, Any] = {"quality": 90}
    if kind == "png":
        about = PngInfo()
        about.add_itxt("Description", _foot(grid))
        options = {"pnginfo": about}
    whole.save(buffer, kind.upper(), **options)
    atomic_write_bytes(target, buffer.getvalue())
    return target


def sheet_path(run_folder: Path, kind: Format) -> Path:
    """An unused file name in the run's folder of comparisons."""
    folder = run_folder / "comparisons"
    stem = f"grid-{time.strftime('%Y%m%d-%H%M%S')}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    return next(path for name in names if not (path := folder / f"{name}.{kind}").exists())


def format_of(path: Path) -> Format:
    """The format by the file's extension.

    Raises:
        UserError: it is neither .png nor .webp.
    """
    kinds: dict[str, Format] = {".png": "png", ".webp": "webp"}
    if path.suffix.lower() not in kinds:
        raise UserError(
            "The grid was not drawn.",
            f"The name {path.name} does not end in .png or .webp.",
            "Use one of these endings.",
        )
    return kinds[path.suffix.lower()]


def _scale(grid: Grid) -> float:
    """Scale of the images, at most 1, that keeps the sheet within its limits."""
    width = max(row.width for row in grid.rows) * (len(grid.columns) + 2)
    height = sum(row.height for row in grid.rows) * 1.05
    most = min(MOST_SIDE * 0.9 / width, MOST_SIDE * 0.9 / height, (MOST_AREA / (width * height)) ** 0.5)
    return min(1.0, most)


def _row_head(
    whole: Image.Image,
    pen: ImageDraw.ImageDraw,
    row: RowLabel,
    control: Image.Image | None,
    box: tuple[int, int, int, int],
    aside: int,
    fonts: Sequence[Any],
    font_size: int,
) -> None:
    """Draws the text on the left and the control image beside the first column."""
    left, top, width, height = box
    if control is not None:
        shown = _fit(control, width, height)
        whole.paste(shown, (aside - GAP - width, top))
    room = aside - width - GAP * 3
    font, small = fonts
    facts = [f"seed {row.seed:,}", f"strength {row.strength:g}", row.source]
    most = max(1, int(height / (font_size * 1.25)) - len(facts))
    lines = [(line, font, INK) for line in fitting(row.prompt or "(no prompt)", font, room, most)]
    lines += [(line, small, QUIET) for fact in facts for line in fitting(fact, small, room, 1)]
    for number, (line, used, colour) in enumerate(lines):
        pen.text((left, top + number * font_size * 1.25), line, fill=colour, font=used)


def _fit(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.width <= width and image.height <= height:
        return image
    share = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _foot(grid: Grid) -> str:
    settings = grid.settings
    words = [
        grid.run,
        counted(int(settings.get("sampling_steps", 0)), "sampling step"),
        f"guidance {settings.get('guidance'):g}",
        f"negative prompt: {settings['negative']}" if settings.get("negative") else "",
        grid.made,
    ]
    return " · ".join(word for word in words if word)
