"""Faults of a condition map beside its image."""

from __future__ import annotations

from collections.abc import Iterator

from engine.data.doctor.facts import MapFacts
from engine.data.doctor.finding import Finding, Hit, Row, Rules, Summary
from engine.data.layouts.model import map_without_picture, picture_without_map
from engine.data.samples import Problem

ASPECT_PLAY = 0.01  # a map of another size is rounded to whole pixels
BLANK_SHARE = 0.997
TURN_SCORE, TURN_MARGIN, TURN_LEAD = 0.4, 0.25, 0.02
SHIFT_PIXELS = 2.0  # at 512 px
SHIFT_SCORE, SHIFT_GAIN = 0.28, 0.06
INVERTED_TONE = -0.3
MAJORITY = 3  # times as many maps of the other polarity
GRID, GRID_NOISE = 0.2, 0.4  # drawn lines have 1/8 of their steps on JPEG's grid

MISSING = Finding(
    "map_missing", "Image without a map", "There is nothing that the net could be told to follow.",
    "It is left out already. Add the map under the image's name, or have all maps made on the next tab.",
    "warning", unusable=True,
)  # fmt: skip
ORPHANED = Finding(
    "map_orphaned", "Map without an image", "Its image is missing or has another name: a copy may have broken off.",
    "It is left out already. Add the image under the map's name, or delete the map.", "warning", unusable=True,
)  # fmt: skip
SIZE = Finding(
    "map_size", "Map of another size",
    "It is scaled to the image: thin lines become grey or jagged, areas get soft borders.",
    "Make the maps from the images at their own size, or leave it out.", "note",
)  # fmt: skip
ASPECT = Finding(
    "map_aspect", "Map of another shape",
    "Image and map were cut differently, so their parts lie at different places; stretching the map does not help. "
    "The net learns to follow it loosely or not at all.",
    "Make the map anew from this very image, or leave it out.", "serious",
)  # fmt: skip
BLANK = Finding(
    "map_blank", "Empty map",
    "It tells the net nothing, so the net learns that an empty map may mean any image.",
    "Make it with lower thresholds, or leave it out.", "serious",
)  # fmt: skip
INVERTED = Finding(
    "map_inverted", "Inverted map",
    "Light and dark are swapped against the rest. The net sees the same sign with two meanings.",
    "Correct: the copy has light and dark swapped back.", "serious", "map",
)  # fmt: skip
TURNED = Finding(
    "map_turned", "Mirrored or rotated map",
    "Things lie at the wrong side. A few of these teach the net that the map's place does not count.",
    "Look at the overlay. Correct: the copy is turned back.", "serious", "map",
)  # fmt: skip
SHIFTED = Finding(
    "map_shifted", "Shifted map",
    "Every line lies beside its edge. The net learns the offset, and draws doubled or displaced contours.",
    "Look at the overlay. Correct: the copy is moved back.", "serious", "map",
)  # fmt: skip
LOSSY = Finding(
    "map_lossy", "Lines saved as JPEG",
    "Compression strews grey dots around every line, which the net takes for faint lines; maps made later, without "
    "the dots, look different to it.",
    "Save maps as PNG. Correct: the dots are taken out of a copy; what they covered stays lost.", "warning", "map",
)  # fmt: skip
REPEATED = Finding(
    "map_repeated", "One map for several images",
    "The same map stands beside different images: at most one of them can fit.",
    "Look at both. Make the maps anew, or leave the wrong ones out.", "serious",
)  # fmt: skip
FINDINGS = (MISSING, ORPHANED, ASPECT, SIZE, BLANK, INVERTED, TURNED, SHIFTED, LOSSY, REPEATED)


def of_problem(problem: Problem) -> Finding | None:
    """The pair fault that the scan has reported, if it is one."""
    words = {
        picture_without_map(problem.path, "", "").what: MISSING,
        map_without_picture(problem.path, "").what: ORPHANED,
    }
    return words.get(problem.what)


def blank(map: MapFacts) -> bool:
    return map.background_share >= BLANK_SHARE


def judge(row: Row, rules: Rules, summary: Summary) -> Iterator[Hit]:
    sample, map = row.sample, row.map
    if map is None:
        return
    if blank(map):
        yield Hit(BLANK.name, sample.key, f"{map.background_share:.1%} of it has one value")
        return  # where nothing is, nothing can be wrong with it
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
        yield Hit(LOSSY.name, sample.key, "" if map.lossy else "it was a JPEG once: its 8 px grid is still there")


def _swapped(row: Row) -> bool:
    """The map has the image's shape on its side."""
    assert row.map is not None
    wide, map_wide = row.sample.width / row.sample.height, row.map.width / row.map.height
    return abs(wide - 1) > 0.05 and abs(wide * map_wide - 1) < 0.05


def _same_shape(row: Row) -> bool:
    assert row.map is not None
    wide, map_wide = row.sample.width / row.sample.height, row.map.width / row.map.height
    return abs(map_wide / wide - 1) <= ASPECT_PLAY + 1 / min(row.map.width, row.map.height)


def _sizes(row: Row) -> Iterator[Hit]:
    sample, map = row.sample, row.map
    assert map is not None
    sizes = f"image {sample.width} x {sample.height}, map {map.width} x {map.height}"
    if not _same_shape(row):
        yield Hit(ASPECT.name, sample.key, sizes)
    elif sample.condition is not None and abs(map.width - sample.width) > 0.01 * sample.width:
        yield Hit(SIZE.name, sample.key, sizes)  # maps made here are smaller on purpose where a resolution was given


def _turn(map: MapFacts) -> str:
    found = map.alignment
    sure = (
        found["turned"] >= TURN_SCORE
        and found["turned"] - found["same"] >= TURN_MARGIN
        and (found["lead"] >= TURN_LEAD or found["turned"] > 0.9)
    )
    return str(found["turn"]) if sure else ""


def _shift(row: Row) -> Iterator[Hit]:
    assert row.map is not None
    found = row.map.alignment
    least = SHIFT_PIXELS * min(row.map.width, row.map.height) / 512
    far = max(abs(found["dx"]), abs(found["dy"])) >= least
    if far and found["there"] >= SHIFT_SCORE and found["there"] - found["here"] >= SHIFT_GAIN:
        yield Hit(SHIFTED.name, row.sample.key, shift_in_words(found["dx"], found["dy"]))


def shift_in_words(dx: float, dy: float) -> str:
    """``6 px too far right, 3 px too low``; pixels of the map."""
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
    """Polarities that a clear majority of the set has the other way round."""
    names = ("lines on dark", "lines on light"), ("as light as the image", "dark where the image is light")
    counts = summary.polarity
    few = set()
    for one, other in (*names, *(pair[::-1] for pair in names)):
        many = counts.get(other, 0)
        if many >= MAJORITY * max(1, counts.get(one, 0)) and many >= summary.maps / 2:
            few.add(one)
    return few
