"""Problems of a condition map and its image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.data.doctor.facts import MapFacts
from engine.data.doctor.finding import Finding, Hit, Rules, SampleFacts, Summary
from engine.data.layouts.model import NO_IMAGE, NO_MAP
from engine.data.samples import Problem
from engine.machine.units import counted

ASPECT_TOLERANCE = 0.01  # the size of a scaled map is rounded to whole pixels
BLANK_SHARE = 0.997
DARK_BELOW = 64  # grey values
TURN_SCORE, TURN_MARGIN, TURN_LEAD = 0.4, 0.25, 0.02
SHIFT_PIXELS = 2.0  # at 512 px
SHIFT_SCORE, SHIFT_GAIN = 0.28, 0.06
COMMON_SHIFT = 0.7  # px at 512 px; medians over 18 photographs are within 0.2 of the truth (docs/doctor.md)
COMMON_MAPS = 12  # with fewer, a median says little
COMMON_ERRORS = 3  # standard errors that the median has to exceed
COMMON_EXAMPLES = 12
INVERTED_TONE = -0.3
MAJORITY = 3  # an inverted map has this many times as many maps against it
GRID, GRID_NOISE = 0.2, 0.4  # drawn lines have 1/8 of their steps on JPEG's block borders

MISSING = Finding(
    "map_missing",
    "Image without a map",
    "There is nothing for the net to follow.",
    "It is not used. Add the map under the image's name, or make all maps on the Conditions tab.",
    "warning",
    unusable=True,
)
ORPHANED = Finding(
    "map_orphaned",
    "Map without an image",
    "Its image is missing or has a different name; perhaps the folder was copied incompletely.",
    "It is not used. Add the image under the map's name, or delete the map.",
    "warning",
    unusable=True,
)
SIZE = Finding(
    "map_size",
    "Map of a different size",
    "It is scaled to the image: thin lines become grey or jagged, and areas get soft borders.",
    "Make the map from the image at the image's own size, or leave it out.",
    "note",
)
ASPECT = Finding(
    "map_aspect",
    "Map with a different aspect ratio",
    "Image and map were cropped differently, so their parts are in different places, and stretching does not "
    "help. The net learns to follow maps loosely or not at all.",
    "Make the map again from this image, or leave it out.",
    "serious",
)
BLANK = Finding(
    "map_blank",
    "Empty map",
    "It shows nothing, so the net learns that an empty map can mean any image.",
    "Make it with lower thresholds, or leave it out.",
    "serious",
)
INVERTED = Finding(
    "map_inverted",
    "Inverted map",
    "Light and dark are swapped compared with the other maps, so the same value means two things.",
    "Correct: writes a copy with light and dark swapped back.",
    "serious",
    "map",
)
DARK = Finding(
    "map_dark",
    "Map with few grey levels",
    "It is nearly black: its values are distances or numbers on another scale, so near and far hardly differ. A "
    "preprocessor's maps have much larger differences than those the net would learn from.",
    "Correct: writes a copy whose values are stretched to the full range. Do not use this for label maps.",
    "warning",
    "map",
)
TURNED = Finding(
    "map_turned",
    "Mirrored or rotated map",
    "Objects are on the wrong side. Even a few such maps teach the net that positions do not matter.",
    "Look at the overlay. Correct: writes a copy in the right orientation.",
    "serious",
    "map",
)
SHIFTED = Finding(
    "map_shifted",
    "Shifted map",
    "Every line lies next to its edge. The net learns the offset and draws doubled or displaced contours.",
    "Look at the overlay. Correct: writes a copy that is shifted back.",
    "serious",
    "map",
)
SHIFTED_ALL = Finding(
    "map_shifted_all",
    "All maps a little shifted",
    "Most maps lie a pixel or so beside their images, all in the same direction: less than a cell of a VAE (8 px). A "
    "ControlNet that reads control images as pixels learns the offset and draws beside the lines. One that reads them "
    "as latents is affected less.",
    "Make the maps again from these images. Such shifts often come from scaling images and maps in different programs.",
    "warning",
    whole=True,
)
LOSSY = Finding(
    "map_lossy",
    "Lines saved as JPEG",
    "Compression adds grey dots around every line, which look like faint lines to the net. Maps made later, "
    "without the dots, look different.",
    "Save maps as PNG. Correct: writes a copy without the dots. What they covered cannot be recovered.",
    "warning",
    "map",
)
REPEATED = Finding(
    "map_repeated",
    "One map for several images",
    "Different images have the same map. It can fit one of them at most.",
    "Look at both. Make the maps again, or leave the wrong ones out.",
    "serious",
)
FINDINGS = (MISSING, ORPHANED, ASPECT, SIZE, BLANK, DARK, INVERTED, TURNED, SHIFTED, SHIFTED_ALL, LOSSY, REPEATED)


def of_problem(problem: Problem) -> Finding | None:
    """The finding for a problem with a pair that the scan reported. None for other problems."""
    return _PROBLEMS.get(problem.what)


_PROBLEMS = {
    NO_MAP: MISSING,
    NO_IMAGE: ORPHANED,
    # Sentences of earlier versions, in the indexes of datasets that these have read.
    "This image has no condition map.": MISSING,
    "This condition map has no image.": ORPHANED,
}


def blank(map: MapFacts) -> bool:
    """Whether a single value fills at least the fraction BLANK_SHARE of the map."""
    return map.background_share >= BLANK_SHARE


def judge(row: SampleFacts, rules: Rules, summary: Summary) -> Iterator[Hit]:
    """The findings about one map and how it fits its image; none without a map."""
    sample, map = row.sample, row.map
    if map is None:
        return
    if blank(map):
        yield Hit(BLANK.name, sample.key, f"{map.background_share:.1%} of it has one single value")
        return  # an empty map cannot have other problems
    if map.brightest < DARK_BELOW:
        yield Hit(DARK.name, sample.key, f"its brightest value is {map.brightest} out of 255")
    turned = _turn(map)
    if turned:
        yield Hit(TURNED.name, sample.key, turned)
    if not _swapped(row) or not turned:
        yield from _sizes(row)
    if _same_shape(row) and not turned:
        yield from _shift(row)
    if _inverted(map, summary):
        yield Hit(INVERTED.name, sample.key)
    if map.lines and (map.lossy or (map.grid >= GRID and map.noise >= GRID_NOISE)):
        yield Hit(LOSSY.name, sample.key, "" if map.lossy else "it was once a JPEG: it still has the 8 px blocks")


def _swapped(row: SampleFacts) -> bool:
    """Whether width and height of the map are swapped."""
    assert row.map is not None
    wide, map_wide = row.sample.width / row.sample.height, row.map.width / row.map.height
    return abs(wide - 1) > 0.05 and abs(wide * map_wide - 1) < 0.05


def _same_shape(row: SampleFacts) -> bool:
    assert row.map is not None
    wide, map_wide = row.sample.width / row.sample.height, row.map.width / row.map.height
    return abs(map_wide / wide - 1) <= ASPECT_TOLERANCE + 1 / min(row.map.width, row.map.height)


def _sizes(row: SampleFacts) -> Iterator[Hit]:
    sample, map = row.sample, row.map
    assert map is not None
    sizes = f"image {sample.width} x {sample.height}, map {map.width} x {map.height}"
    if not _same_shape(row):
        yield Hit(ASPECT.name, sample.key, sizes)
    elif sample.condition is not None and abs(map.width - sample.width) > 0.01 * sample.width:
        yield Hit(SIZE.name, sample.key, sizes)  # the app's own maps may be smaller on purpose


def _turn(map: MapFacts) -> str:
    found = map.alignment
    sure = (
        found["turned"] >= TURN_SCORE
        and found["turned"] - found["same"] >= TURN_MARGIN
        and (found["lead"] >= TURN_LEAD or found["turned"] > 0.9)
    )
    return str(found["turn"]) if sure else ""


def _shift(row: SampleFacts) -> Iterator[Hit]:
    assert row.map is not None
    found = row.map.alignment
    least = SHIFT_PIXELS * min(row.map.width, row.map.height) / 512
    far = max(abs(found["dx"]), abs(found["dy"])) >= least
    if far and found["there"] >= SHIFT_SCORE and found["there"] - found["here"] >= SHIFT_GAIN:
        yield Hit(SHIFTED.name, row.sample.key, shift_text(found["dx"], found["dy"]))


def note_shift(row: SampleFacts, summary: Summary) -> None:
    """Count a map whose outlines fit its image's, for ``common_shift``."""
    map = row.map
    if map is None or blank(map) or not _same_shape(row) or map.alignment["there"] < SHIFT_SCORE:
        return
    scale = 512 / min(map.width, map.height)
    summary.shifts.append((row.sample.key, map.alignment["dx"] * scale, map.alignment["dy"] * scale))


def common_shift(summary: Summary) -> Iterator[Hit]:
    """Examples of maps, if most are shifted alike by less than what is found map by map.

    The median of a direction has the standard error 1.25 s / sqrt(n), with s from the quartiles.
    """
    if len(summary.shifts) < COMMON_MAPS:
        return
    offsets = np.array([(dx, dy) for _, dx, dy in summary.shifts])
    low, (dx, dy), high = np.quantile(offsets, [0.25, 0.5, 0.75], axis=0)
    errors = 1.25 * (high - low) / 1.35 / len(offsets) ** 0.5
    sure = [abs(at) >= max(COMMON_SHIFT, COMMON_ERRORS * error) for at, error in zip((dx, dy), errors, strict=True)]
    if not any(sure) or max(abs(dx), abs(dy)) >= SHIFT_PIXELS:
        return
    parts = []
    for at, is_sure, (less, more) in zip((dx, dy), sure, (("left", "right"), ("high", "low")), strict=True):
        if is_sure:
            far = "far " if more == "right" else ""
            parts.append(f"{abs(at):.1f} px too {far}{more if at > 0 else less}")
    words = f"{', '.join(parts)} at 512 px (median of {counted(len(offsets), 'map')})"
    for key, *_ in summary.shifts[:COMMON_EXAMPLES]:
        yield Hit(SHIFTED_ALL.name, key, words)


def shift_text(dx: float, dy: float) -> str:
    """``6 px too far right, 3 px too low``, in pixels of the map."""
    parts = []
    if round(dx):
        parts.append(f"{abs(round(dx))} px too far {'right' if dx > 0 else 'left'}")
    if round(dy):
        parts.append(f"{abs(round(dy))} px too {'low' if dy > 0 else 'high'}")
    return ", ".join(parts) or "about 1 px off"


def _inverted(map: MapFacts, summary: Summary) -> bool:
    if map.known:
        return map.alignment["tone"] <= INVERTED_TONE
    return bool(map.polarity) and map.polarity in _minority(summary)


def _minority(summary: Summary) -> set[str]:
    """Polarities of which a clear majority of the dataset has the opposite."""
    names = ("lines on dark", "lines on light"), ("as light as the image", "dark where the image is light")
    counts = summary.polarity
    few = set()
    for one, other in (*names, *(pair[::-1] for pair in names)):
        many = counts.get(other, 0)
        if many >= MAJORITY * max(1, counts.get(one, 0)) and many >= summary.maps / 2:
            few.add(one)
    return few
